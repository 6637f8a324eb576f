"""`python -m worker` is `usage-worker`."""

import sys

from worker.cli import main as _main


def main() -> None:
    """Run the command line and leave with its status."""
    sys.exit(_main())


if __name__ == "__main__":
    main()
