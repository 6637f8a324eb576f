"""The adapter to Postgres; imported by the composition root and the commands only."""
