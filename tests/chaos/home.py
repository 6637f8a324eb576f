"""The folders of the project: `TESTS` is where the suite's own programs are started from, so that Python finds them."""

from pathlib import Path

TESTS = str(Path(__file__).parents[1])
ROOT = Path(TESTS).parent
