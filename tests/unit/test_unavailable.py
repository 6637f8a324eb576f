"""What a worker says of a broker that does not let it in."""

from aio_pika.exceptions import InvalidFrameError

from worker.rabbitmq.unavailable import unavailable
from worker.settings import load_settings

SETTINGS = load_settings(amqp_url="amqp://me:secret@broker/house")


def refused(address: str) -> InvalidFrameError:
    """As the library raises it where a virtual host is closed to a user; each try has another address."""
    return InvalidFrameError(f"Expected one of ['Connection.OpenOk'], got <Connection.Close object at {address}>")


def test_a_closed_virtual_host_is_told_in_words_that_stay() -> None:
    """The same at each try, or the log would have a line for each; and without user and password."""
    (text,) = {str(unavailable(SETTINGS, refused(address))) for address in ("0x7f03e14eb590", "0x7f03e1561370")}
    assert text == (
        "RabbitMQ at broker:5672/house does not answer: it closed the new connection: there is no such virtual host, or"
        " this user may not enter it"
    )


def test_another_broken_frame_keeps_its_own_words() -> None:
    """Only the answer to the entry is known to mean a refusal."""
    assert str(unavailable(SETTINGS, InvalidFrameError("torn"))).endswith("InvalidFrameError: torn")
