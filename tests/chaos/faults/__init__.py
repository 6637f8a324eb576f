"""Every fault, by kind; importing this fills the registry."""

from chaos.faults import (
    clocks,
    cluster,
    duplicates,
    failover,
    limits,
    machine,
    memory,
    network,
    partitions,
    poison,
    postgres,
    rabbitmq,
    workers,
)

__all__ = [
    "clocks",
    "cluster",
    "duplicates",
    "failover",
    "limits",
    "machine",
    "memory",
    "network",
    "partitions",
    "poison",
    "postgres",
    "rabbitmq",
    "workers",
]
