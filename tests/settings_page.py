"""docs/settings.md, made from the settings themselves: `python -m settings_page` writes it."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo

from worker.settings import PREFIX, SECRETS, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Written from the code by `make settings-page`. Each is read from the environment once, at the start; what is wrong is
named with its value and its limit, and ends the command with status 2. `usage-worker run --help` shows the same.

| variable | default | limits | what it is |
| --- | --- | --- | --- |
"""
TAIL = """
- A variable that ends with `_FILE` names a file that holds the value, such as a secret of Docker or Kubernetes. Both at
  once are refused. Files are read at the start: restart workers after a change.
- In the image `USAGE_HTTP_HOST` is 0.0.0.0, as probes and Prometheus come from outside of the container.
"""
_SIGNS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(_rows()) + "\n" + TAIL


def _rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        yield _row(f"`{variable}`", _default(field), _limits(field), field.description or "")
        if name in SECRETS:
            yield _row(f"`{variable}_FILE`", "", "", f"the file that holds it, in the place of `{variable}`")


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "not set"
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, Enum):
        value = value.value
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limits(field: FieldInfo) -> str:
    choices = field.annotation
    if isinstance(choices, type) and issubclass(choices, Enum):
        return ", ".join(f"`{one.value}`" for one in choices)
    if choices is bool:
        return "`true`, `false`"
    return ", ".join(_said(limit) for limit in _metadata(field) if _said(limit))


def _metadata(field: FieldInfo) -> list[Any]:
    inside = get_args(field.annotation) if get_origin(field.annotation) in {Union, UnionType} else ()
    return [*field.metadata, *(limit for one in inside for limit in getattr(one, "__metadata__", ()))]


def _said(limit: Any) -> str:
    for kind, (words, attribute) in _SIGNS.items():
        if isinstance(limit, kind):
            return f"{words} {getattr(limit, attribute):,}"
    if isinstance(limit, MinLen):
        return f"at least {limit.min_length} character"
    if isinstance(limit, MaxLen):
        return f"at most {limit.max_length} characters"
    pattern = getattr(limit, "pattern", None)
    return f"`{pattern}`" if pattern else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
