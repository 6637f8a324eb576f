"""Cancellation: whether it is for the running task, or of what that task waits for."""

import asyncio


def is_own_cancellation() -> bool:
    """Whether somebody has cancelled the running task, and not a library what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
