"""What Celery's own client makes of an event: the message of a task, in the second version of its protocol."""

from uuid import uuid4

from pamqp import commands

TASK = "usage.record"


def wrap(body: bytes) -> bytes:
    """An event as the message of a task: arguments, keywords, and what is to follow."""
    return b'[[%b],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]' % body


def task_properties(_: int) -> commands.Basic.Properties:
    """What Celery's own client sets."""
    task_id = str(uuid4())
    return commands.Basic.Properties(
        content_type="application/json", content_encoding="utf-8", delivery_mode=2, correlation_id=task_id,
        headers={"lang": "py", "task": TASK, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
                 "retries": 0, "timelimit": [None, None], "argsrepr": "", "kwargsrepr": "", "ignore_result": True},
    )  # fmt: skip
