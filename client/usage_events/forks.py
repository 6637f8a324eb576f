"""What has to be done around a fork: a child gets the memory, but neither the threads nor the rights to the files."""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that holds locks, threads or connections."""

    fork_turn: int
    """Whose locks are taken first: who waits for another's while it holds its own comes before that one."""

    def before_fork(self) -> None:
        """Brings itself into a state that may be copied, and keeps it so."""

    def after_fork(self, *, is_child: bool) -> None:
        """Goes on, in the parent and in the child."""


_known: WeakSet[Forkable] = WeakSet()
_forking: list[Forkable] = []


def register(forkable: Forkable) -> None:
    """Calls it around each fork, for as long as it lives."""
    _known.add(forkable)


def forget(forkable: Forkable) -> None:
    """Leaves it alone from now on."""
    _known.discard(forkable)


def _before() -> None:
    for forkable in sorted(_known, key=lambda one: one.fork_turn):
        forkable.before_fork()
        _forking.append(forkable)


def _after(*, is_child: bool) -> None:
    while _forking:
        _forking.pop().after_fork(is_child=is_child)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_before, after_in_parent=lambda: _after(is_child=False), after_in_child=lambda: _after(is_child=True)
    )
