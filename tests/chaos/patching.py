"""How the suite's own workers differ from the product's: an attribute is put in another's place before `main` runs."""

from typing import Any


def put(owner: object, name: str, value: object) -> Any:
    """Put it there; what stood there before.

    Raises:
        AttributeError: nothing did, so that this is out of date.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before
