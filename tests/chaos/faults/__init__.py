"""Every fault, by kind; importing this fills the registry."""

from chaos.faults import (
    cluster,
    duplicates,
    failover,
    limits,
    machine,
    network,
    partitions,
    postgres,
    rabbitmq,
    workers,
)

__all__ = [
    "cluster",
    "duplicates",
    "failover",
    "limits",
    "machine",
    "network",
    "partitions",
    "postgres",
    "rabbitmq",
    "workers",
]
