"""Dead letters in the database: what operators do with their tables, and what workers heal."""
