"""Which servers a fault is played on."""

from enum import StrEnum


class Arrangement(StrEnum):
    """Servers that are started together, and serve every fault of theirs one after another."""

    SINGLE = "single"  # one RabbitMQ, one Postgres
    CLUSTER = "cluster"  # three nodes of RabbitMQ, one Postgres
    FAILOVER = "failover"  # one RabbitMQ, a primary of Postgres with a synchronous standby
