"""Partitions of `ai_usage_logs` by ranges of ids: made while workers store events, dropped when they are old."""
