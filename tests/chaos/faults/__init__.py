"""Every fault, by kind; importing this fills the registry."""

from chaos.faults import machine, network, postgres, rabbitmq, workers

__all__ = ["machine", "network", "postgres", "rabbitmq", "workers"]
