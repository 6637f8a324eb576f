"""What to do about a connection that TLS refused: the same words for RabbitMQ and for Postgres. Pure."""

import ssl
from collections.abc import Iterator
from typing import NamedTuple

_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64  # OpenSSL's X509_V_ERR_…
_PLAIN_TEXT = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


class Names(NamedTuple):
    """What the parameters of a URL are called."""

    authority: str
    certificate: str
    key: str


AMQP = Names("cafile", "certfile", "keyfile")
POSTGRES = Names("sslrootcert", "sslcert", "sslkey")


def advice(error: BaseException, names: Names) -> str | None:
    """What is wrong with the certificates and what to do, in one line; `None` where they are not the reason.

    To be asked about connections with TLS alone: a plain one can be reset for many reasons.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _about_the_server(cause, names)
        if isinstance(cause, ssl.SSLError):
            return _about_us(cause.reason or "", names)
        if isinstance(cause, FileNotFoundError | PermissionError) and cause.filename is None and cause.errno:
            return f"a file that {', '.join(names)} names cannot be read: look at its path and its rights"
        if isinstance(cause, ConnectionResetError):  # TLS 1.3: what the server said may be lost with the connection
            return (
                f"where the server wants a client certificate, the files that {names.certificate} and {names.key} name"
                " are missing or refused; its log says"
            )
    return None


def _about_the_server(error: ssl.SSLCertVerificationError, names: Names) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "the server's certificate, or its authority's, has expired: renew it on the server"
        case code if code == _NOT_YET_VALID:
            return "the server's certificate is not valid yet: set the clocks"
        case code if code in {_OTHER_NAME, _OTHER_ADDRESS}:
            return "the server's certificate is for another name: connect by a name that it holds, or have one issued"
        case _:
            return f"the server's certificate is of an authority unknown here: name its file in {names.authority}"


def _about_us(reason: str, names: Names) -> str:
    ours = f"{names.certificate} and {names.key}"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"the server wants a client certificate: name its files in {ours}"
    if "ALERT_CERTIFICATE_EXPIRED" in reason:
        return f"the client certificate has expired: renew the files that {ours} name"
    if "ALERT" in reason:
        return f"the server refused the client certificate: have one issued by an authority that it trusts ({ours})"
    if reason in _PLAIN_TEXT:
        return "the port does not speak TLS: name the one that does"
    return f"the files that {ours} name cannot be read, or do not belong together"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from; libraries make circles of them."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
