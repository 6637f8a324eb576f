"""Where the suite's own programs are started from: a folder in which Python finds them."""

from pathlib import Path

TESTS = str(Path(__file__).parents[1])
