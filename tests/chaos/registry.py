"""Faults: what breaks something around the workers and mends it again, known by name."""

import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from chaos.arrangement import Arrangement
from chaos.load import Load
from chaos.stage import Stage

Act = Callable[[Stage, random.Random], Awaitable[None]]


class NotHereError(Exception):
    """This machine or these servers cannot have the fault; says why."""


@dataclass(slots=True, frozen=True)
class Fault:
    """One way to break something.

    `act` returns when all is mended, so that events should flow again within `recovery_seconds_max`. `environment` is
    that of the workers.
    """

    name: str
    kind: str
    what: str
    act: Act
    recovery_seconds_max: float = 30.0
    workers: int = 2
    load: Load = field(default_factory=Load)
    environment: Mapping[str, str] = field(default_factory=dict)
    may_end_with: str = ""  # the name of an error with which workers may end: they are started again
    exits: frozenset[int] = frozenset({0, -signal.SIGKILL})  # no worker may end with another status
    broker_forgets: bool = False  # acknowledgements: messages may come back, and a worker may get no others
    mixes: bool = True  # with others at once, of the single servers
    soaks: bool = True  # on a table that has grown for an hour, too
    arrangement: Arrangement = Arrangement.SINGLE


FAULTS: dict[str, Fault] = {}


def fault(name: str, **options: object) -> Callable[[Act], Act]:
    """Register the function below under this name; its docstring says what an operator would see."""

    def register(act: Act) -> Act:
        assert name not in FAULTS, f"there are two faults {name!r}"
        kind = act.__module__.rpartition(".")[2]
        what = (act.__doc__ or "").partition("\n")[0]
        FAULTS[name] = Fault(name, kind, what, act, **options)  # type: ignore[arg-type] # checked by the dataclass
        return act

    return register
