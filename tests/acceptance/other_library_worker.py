"""`usage-worker` on an AMQP library of another version: its connection knows no transports of others."""

from typing import Any

from aiormq import connection

from worker.__main__ import main


class Connection(connection.Connection):
    """The library's, without the extension point."""

    def __init__(self, url: Any, *, loop: Any = None, context: Any = None, **others: Any) -> None:
        if "transport_factory" in others:
            raise TypeError("got an unexpected keyword argument 'transport_factory'")
        super().__init__(url, loop=loop, context=context, **others)


if __name__ == "__main__":
    connection.Connection = Connection  # type: ignore[misc]
    main()
