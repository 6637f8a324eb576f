"""Answers of providers as they document them, and what each must become.

`provider_answers/*.json` holds one answer, or one stream, a file, with the page that its shape comes from (read in
a stored copy). Texts are cut: only the counts matter, and how they come.
"""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from makers import ORGANIZATION, USER
from usage_events import UsageEvent
from usage_events.providers import anthropic, bedrock, google, ollama, openai, opentelemetry

MODULES: dict[str, ModuleType] = {
    "anthropic": anthropic,
    "bedrock": bedrock,
    "google": google,
    "ollama": ollama,
    "openai": openai,
    "opentelemetry": opentelemetry,
}
WHO: dict[str, Any] = {"user_id": USER, "organization_id": ORGANIZATION}


class Case(NamedTuple):
    """One recorded shape."""

    name: str
    provider: str
    answer: Any
    stream: list[Any] | None
    call: dict[str, Any]
    expect: dict[str, Any]
    source: dict[str, str]

    def event(self, answer: Any = None, **call: Any) -> UsageEvent:
        """What the adapter makes of it, or of `answer` in its place."""
        module = MODULES[self.provider]
        arguments = WHO | self.call | call
        if self.stream is not None:
            made = module.usage_event_of_stream(self.stream if answer is None else answer, **arguments)
        else:
            made = module.usage_event(self.answer if answer is None else answer, **arguments)
        assert isinstance(made, UsageEvent)
        return made


def _read(path: Path) -> Case:
    file = json.loads(path.read_text(encoding="utf-8"))
    return Case(
        path.stem,
        file["provider"],
        file.get("answer"),
        file.get("stream"),
        file.get("call", {}),
        file["expect"],
        file["source"],
    )


CASES = [_read(path) for path in sorted((Path(__file__).parent / "provider_answers").glob("*.json"))]


def case(name: str) -> Case:
    """One of them."""
    return next(one for one in CASES if one.name == name)


def as_objects(value: Any) -> Any:
    """JSON as an SDK's objects hold it: attributes in place of keys."""
    if isinstance(value, list):
        return [as_objects(item) for item in value]
    if isinstance(value, dict):
        return SimpleNamespace(**{name.replace(".", "_"): as_objects(item) for name, item in value.items()})
    return value


def with_strangers(value: Any) -> Any:
    """JSON with fields that no adapter knows, at every level."""
    if isinstance(value, list):
        return [with_strangers(item) for item in value]
    if isinstance(value, dict):
        known = {name: with_strangers(item) for name, item in value.items()}
        return known | {"new_tokens": -1, "new_object": {"tokens": 0.5}, "new_list": [None]}
    return value
