"""Every fault, by kind; importing this fills the registry."""

from chaos.faults import cluster, machine, network, postgres, rabbitmq, workers

__all__ = ["cluster", "machine", "network", "postgres", "rabbitmq", "workers"]
