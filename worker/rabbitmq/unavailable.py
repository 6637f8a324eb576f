"""What is said of a broker that cannot be reached: where it is, why, and what to do; never user and password."""

from aio_pika.exceptions import InvalidFrameError
from usage_events.tls import AMQP, advice
from yarl import URL

from worker.errors import SystemUnavailableError
from worker.settings import Settings


def unavailable(settings: Settings, error: BaseException) -> SystemUnavailableError:
    """The project's own error for one of the library's, without user and password."""
    url = URL(settings.amqp_url.get_secret_value())
    told = advice(error, AMQP) if url.scheme == "amqps" else None
    reason = f"{_text(error)}: {told}" if told else _text(error)
    return SystemUnavailableError(f"RabbitMQ at {address(url)} does not answer: {reason}")


def address(url: URL) -> str:
    """Host, port and virtual host, without user and password."""
    return f"{url.host}:{url.port or (5671 if url.scheme == 'amqps' else 5672)}{url.path}"


def _text(error: BaseException) -> str:
    # The library expects no refusal where it enters the virtual host: it forgets the reason, and names the address of
    # an object, another one at each try.
    if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
        return "it closed the new connection: there is no such virtual host, or this user may not enter it"
    return f"{type(error).__name__}: {error}"
