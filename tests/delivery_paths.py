"""Tests that run on both delivery paths; the fixture `system` and what stands on it take `delivery_path`."""

import pytest

both_paths = pytest.mark.parametrize("delivery_path", ["fast", "library"])
both_paths_at_length = pytest.mark.parametrize(
    "delivery_path", ["fast", pytest.param("library", marks=pytest.mark.slow)]
)
