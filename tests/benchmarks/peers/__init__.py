"""What a user would pick instead, each a program of its own: `python -m benchmarks.peers.NAME AMQP_URL QUEUE …`."""
