"""The usage-worker: RabbitMQ in, Postgres rows out, exactly once."""
