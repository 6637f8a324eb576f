"""`python -m worker.probe`: is the worker beside this process alive? For images, which have no curl.

Asks /livez, or the path that is given, and says what was answered. Exit status: 0 for 200, else 1.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import TextIO

ANSWER_SECONDS_MAX = 2.0
_OK = 200
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens everywhere also listens there


def probe(arguments: Sequence[str], environment: Mapping[str, str], out: TextIO) -> int:
    """Ask once.

    Args:
        arguments: the path, /livez where there is none.
        environment: `USAGE_HTTP_HOST` and `USAGE_HTTP_PORT`, as the worker has them.
        out: gets the answer, or why there is none.

    Returns:
        The exit status.
    """
    path = arguments[0] if arguments else "/livez"
    host = environment.get("USAGE_HTTP_HOST", "127.0.0.1")
    port = environment.get("USAGE_HTTP_PORT", "9464")
    if not port.isdecimal() or int(port) == 0:
        out.write(f"USAGE_HTTP_PORT={port!r}: the port is not known in advance; give one from 1 to 65535\n")
        return 1
    connection = HTTPConnection(_LOOPBACK.get(host, host), int(port), timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        out.write(response.read().decode(errors="replace"))
    except (OSError, OverflowError, HTTPException) as error:
        out.write(f"http://{host}:{port}{path} does not answer: {error}\n")
        return 1
    else:
        return 0 if response.status == _OK else 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1:], os.environ, sys.stdout))
