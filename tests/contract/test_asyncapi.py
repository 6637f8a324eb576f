"""The AsyncAPI document, read by AsyncAPI's own parser."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from node import install
from usage_events import schema

TOOL = Path(__file__).parents[1] / "asyncapi_parser"
DOCUMENT = schema.documents()[schema.ASYNCAPI]
# 3.0 is what most tools read by now; the parser would like a newer one.
TASTE = {"asyncapi-latest-version"}


@pytest.fixture
def parser(tmp_path: Path) -> Path:
    """The parser's script, with its packages."""
    install(TOOL, tmp_path / "parser")
    return tmp_path / "parser" / "check.mjs"


async def findings(parser: Path, document: object) -> list[dict[str, Any]]:
    """What the parser finds in a document, matters of taste left out."""
    process = await asyncio.create_subprocess_exec(
        "node", parser,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate(json.dumps(document).encode())
    assert process.returncode == 0, errors.decode()
    return [finding for finding in json.loads(output) if finding["code"] not in TASTE]


async def test_the_document_is_valid(parser: Path) -> None:
    """The official parser takes the document with its schemas and bindings, and warns of nothing."""
    assert await findings(parser, DOCUMENT) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("components.schemas.usageEvent", {"type": "event"}),
        ("channels.recorded.bindings.amqp", {"is": "topic"}),
        ("operations.publish.channel", {"$ref": "#/channels/none"}),
    ],
)
async def test_the_parser_finds_what_is_wrong(parser: Path, path: str, value: dict[str, Any]) -> None:
    """Its silence means something: it judges schemas and bindings, and follows references."""
    wrong = json.loads(json.dumps(DOCUMENT))  # a copy that shares no part with another
    place = wrong
    for name in path.split("."):
        place = place[int(name) if isinstance(place, list) else name]
    place |= value
    found = {finding["path"] for finding in await findings(parser, wrong)}
    assert any(one.startswith(path) for one in found), found
