"""Fixtures of the chaos suite: servers that may be broken."""

from collections.abc import Iterator

import pytest

from chaos.run import chaos_servers
from chaos.stage import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Two servers for all runs; each run leaves them whole."""
    with chaos_servers() as started:
        yield started
