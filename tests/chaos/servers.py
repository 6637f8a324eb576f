"""The servers of each arrangement, started for several runs and ended after them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from chaos.arrangement import Arrangement
from chaos.cluster import rabbitmq_cluster
from chaos.failover import failover_postgres
from chaos.stage import Servers
from worker.demo import postgres_server, rabbitmq_server
from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import RabbitServer
from worker.demo.servers import own_kind, start_postgres, start_rabbitmq

POSTGRES_SETTINGS = {"max_connections": "60"}


def _postgres() -> PostgresServer:
    return start_postgres(own_kind(postgres_server.IMAGE), settings=POSTGRES_SETTINGS)


def _rabbitmq() -> RabbitServer:
    return start_rabbitmq(own_kind(rabbitmq_server.IMAGE))


_STARTS: dict[
    Arrangement,
    tuple[Callable[[], AbstractContextManager[PostgresServer]], Callable[[], AbstractContextManager[RabbitServer]]],
] = {
    Arrangement.SINGLE: (_postgres, _rabbitmq),
    Arrangement.CLUSTER: (_postgres, rabbitmq_cluster),
    Arrangement.FAILOVER: (failover_postgres, _rabbitmq),
}


@contextmanager
def chaos_servers(arrangement: Arrangement = Arrangement.SINGLE) -> Iterator[Servers]:
    """A database and a broker of one's own, for several runs.

    Raises:
        NotHereError: this machine cannot have them.
    """
    start_database, start_broker = _STARTS[arrangement]
    with start_database() as postgres, start_broker() as rabbitmq:
        servers = Servers(postgres, rabbitmq)
        servers.add_users()
        yield servers
