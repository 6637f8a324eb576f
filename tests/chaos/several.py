"""A server that is several, such as the nodes of a cluster, and what a run has to know of any server."""

from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from worker.demo.postgres_server import PostgresServer
from worker.demo.processes import LocalProcess
from worker.demo.rabbitmq_server import RabbitServer


@runtime_checkable
class Several(Protocol):
    """Several servers in one's place."""

    @property
    def ports(self) -> list[int]:
        """Where its clients may connect to, through a load balancer."""

    def mend(self) -> None:
        """Let all of them run, and each be what it was, where a fault has failed before it had mended what it broke."""


def ports(server: PostgresServer | RabbitServer, url: str) -> list[int]:
    """Where clients of a server that is reached by this URL may connect to; at least one."""
    return server.ports if isinstance(server, Several) else [urlsplit(url).port or 0]


def mend(server: PostgresServer | RabbitServer) -> None:
    """Let it run again."""
    if isinstance(server, Several):
        server.mend()
        return
    host = server._host
    if isinstance(host, LocalProcess):
        host.thaw()
        if not host.is_running():
            server.start()
    server.wait_until_ready()
