"""A connection to the broker."""

from typing import TYPE_CHECKING

from aio_pika.connection import Connection
from yarl import URL

from worker.errors import ConfigurationError
from worker.rabbitmq.calls import calls
from worker.settings import Settings

if TYPE_CHECKING:  # it does not import where the library has no extension point
    from worker.rabbitmq.transport import DeliveryTransport

CONNECT_SECONDS_MAX = 10.0
HEARTBEAT_SECONDS = 15  # a half-open connection is noticed after three


async def connect(settings: Settings, name: str, *, transport: "DeliveryTransport | None" = None) -> Connection:
    """A connection to the broker, on a transport of ours or on the library's own; one try.

    Raises:
        SystemUnavailableError: the broker does not answer or does not let us in.
        ConfigurationError: the URL has a parameter that cannot be read.
    """
    url = URL(settings.amqp_url.get_secret_value())
    url = url.update_query({"heartbeat": HEARTBEAT_SECONDS, **url.query, "name": name})
    if transport is None:
        connection = Connection(url)
    else:
        from worker.rabbitmq.transport import TransportConnection

        connection = TransportConnection(url, transport_factory=transport)
    with calls(settings):
        try:
            await connection.connect(timeout=CONNECT_SECONDS_MAX)
        except ValueError as error:
            if isinstance(error, OSError):  # a certificate that is refused is both
                raise
            why = "a parameter behind its ? has a value that it cannot have"
            raise ConfigurationError(f"USAGE_AMQP_URL cannot be read: {why}") from None  # the library's text shows it
    return connection
