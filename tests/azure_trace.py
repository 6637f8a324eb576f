"""A published trace of a language model's traffic, for tests and benchmarks that want real bursts.

It is no part of the project: where the file is not there they are skipped, and say so.
"""

import csv
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

TRACE = Path(__file__).parents[2] / "shared" / "data" / "AzureLLMInferenceTrace_conv.csv"
ROWS = 19_366
HAVE_TRACE = pytest.mark.skipif(not TRACE.exists(), reason=f"the trace is not at {TRACE}")


def call_seconds(path: Path = TRACE) -> Sequence[float]:
    """When each call was made, in seconds since the first, to the microsecond."""
    with path.open(newline="") as file:
        times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in csv.DictReader(file)]
    return [(time - times[0]).total_seconds() for time in times]
