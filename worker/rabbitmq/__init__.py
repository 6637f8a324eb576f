"""The adapter to RabbitMQ; imported by the composition root only."""
