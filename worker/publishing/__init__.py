"""What `usage-worker publish` does with files: rows or lines to events, and those to messages."""
