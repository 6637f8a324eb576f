"""The hosts of a DSN in turn: one that is silent, as a machine that has died, leaves time for those behind it."""

from urllib.parse import urlsplit, urlunsplit


def each_host(dsn: str) -> list[str]:
    """A DSN for each host that `dsn` names before its path, in their order; `dsn` itself where that is one, or none.

    Raises:
        ValueError: it cannot be read.
    """
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]
