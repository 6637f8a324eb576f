"""Nothing lost, doubled, wrongly refused or misread, whatever breaks; and events flow again in time."""

from collections.abc import Sequence
from typing import Any

import pytest

import chaos.faults  # noqa: F401 - fills the registry
from chaos.registry import FAULTS, Fault, NotHereError
from chaos.run import mix, play, seed_of_run
from chaos.stage import Servers

pytestmark = pytest.mark.timeout(900)

# What `make test` plays: one of each kind that is over soon. The others are played by `make chaos-test`.
SHORT = (
    "worker killed after commit before ack",
    "Postgres restarted (immediate)",
    "RabbitMQ connections closed by an operator",
    "workers to Postgres cut and refused",
)


def _parameters(name: str, fault: Fault) -> Any:
    return pytest.param(fault.arrangement, name, marks=() if name in SHORT else pytest.mark.chaos)


@pytest.mark.parametrize(
    ("servers", "name"), [_parameters(name, fault) for name, fault in FAULTS.items()], indirect=["servers"]
)
async def test_a_fault_alone(servers: Servers, name: str) -> None:
    """Every confirmed event ends once and as it should, and the seconds to recovery are bounded."""
    await _check(servers, [FAULTS[name]], seed_of_run())


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(10))
async def test_several_faults_at_once(servers: Servers, number: int) -> None:
    """The same with two or three faults of different kinds, chosen by the seed."""
    del number  # each has a seed of its own
    seed = seed_of_run()
    await _check(servers, mix(FAULTS, seed), seed)


async def _check(servers: Servers, faults: Sequence[Fault], seed: int) -> None:
    print(f"CHAOS_SEED={seed}: {', '.join(fault.name for fault in faults)}")  # noqa: T201 - shown where it fails
    try:
        outcome = await play(servers, faults, seed)
    except NotHereError as error:
        pytest.skip(str(error))
    print(outcome.line())  # noqa: T201 - shown where it fails
    assert outcome.is_right
    assert outcome.events > 0
