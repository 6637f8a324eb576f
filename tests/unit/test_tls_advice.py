"""What is said about a connection that TLS refused."""

import ssl

import pytest
from usage_events.tls import AMQP, POSTGRES, advice


def alert(reason: str) -> ssl.SSLError:
    """What the server has answered."""
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "the server wants a client certificate: name its files in sslcert and"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "the client certificate has expired"),
        ("TLSV1_ALERT_UNKNOWN_CA", "the server refused the client certificate"),
        ("WRONG_VERSION_NUMBER", "the port does not speak TLS"),
        ("KEY_VALUES_MISMATCH", "the files that sslcert and sslkey name cannot be read, or do not belong together"),
    ],
)
def test_each_answer_has_an_advice(reason: str, words: str) -> None:
    """It is found also below what a library makes of it, and names the parameters of this server's URL."""
    error = ConnectionError("lost")
    error.__cause__ = alert(reason)
    told = advice(error, POSTGRES)
    assert told is not None
    assert told.startswith(words)


def test_a_circle_of_causes() -> None:
    """Libraries make them; looking ends all the same, and other errors are no matter of TLS."""
    first, second = TimeoutError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert advice(first, AMQP) is None
