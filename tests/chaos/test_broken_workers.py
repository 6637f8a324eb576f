"""The suite notices a worker that is broken by hand: what no fault can show would be shown by nothing."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from harness import until

import chaos.faults  # noqa: F401 - fills the registry
from chaos.arrangement import Arrangement
from chaos.broken_worker import MISTAKES
from chaos.registry import FAULTS, Fault
from chaos.run import Outcome, play
from chaos.stage import Servers, Stage
from chaos.waiting_writers import writers_wait

pytestmark = pytest.mark.timeout(900)  # the first is a part of `make test`, the others of `make chaos-test`


WHOLE_SECONDS_MAX = 10.0  # what is missing does not come


async def in_the_middle_of_a_batch(stage: Stage, act: Callable[[], Awaitable[None]]) -> None:
    """Do something while every writer waits."""
    async with writers_wait(stage):
        await act()


async def kill_all(stage: Stage, _: random.Random) -> None:
    """Every worker is killed while it writes."""
    for _turn in range(3):
        await in_the_middle_of_a_batch(stage, stage.fleet.replace)
        await stage.until_more_are_stored(200)


async def cut_all(stage: Stage, _: random.Random) -> None:
    """Every worker loses its channel while it writes, and consumes again before it has written."""

    def consumers() -> int:
        return sum(log.count(f'"queue": "{stage.settings.queue}", "generation"') for log in stage.fleet.logs())

    async def cut_and_wait() -> None:
        wanted = consumers() + len(stage.fleet.running)
        await stage.workers_to_rabbitmq.cut()
        await until(lambda: consumers() >= wanted, "every worker consumes again", details=stage.details)

    for _turn in range(3):
        await in_the_middle_of_a_batch(stage, cut_and_wait)
        await stage.until_more_are_stored(200)


async def wait_for_more(stage: Stage, _: random.Random) -> None:
    """Nothing happens."""
    await stage.until_more_are_stored(600)


async def play_broken(servers: Servers, fault: Fault, mistake: str) -> Outcome:
    """A run whose workers have this mistake."""
    assert mistake in MISTAKES
    return await play(
        servers,
        [fault],
        1,
        module="chaos.broken_worker",
        environment={"CHAOS_BROKEN": mistake},
        whole_seconds_max=WHOLE_SECONDS_MAX,
    )


def fault_of(act: Callable[[Stage, random.Random], Awaitable[None]]) -> Fault:
    """A fault of this file alone."""
    return Fault(act.__name__, "workers", act.__doc__ or "", act)


async def test_an_acknowledgement_before_the_commit_is_noticed(servers: Servers) -> None:
    """What was acknowledged and not committed when its worker was killed is missing from the books."""
    outcome = await play_broken(servers, fault_of(kill_all), "acknowledges_before_the_commit")
    assert outcome.counts["lost"] > 0


@pytest.mark.chaos
async def test_an_acknowledgement_on_another_channel_is_noticed(servers: Servers) -> None:
    """The broker refuses tags that it has never given out on that channel."""
    outcome = await play_broken(servers, fault_of(cut_all), "knows_no_generations")
    assert outcome.astray > 0


@pytest.mark.chaos
async def test_forgotten_ids_are_noticed(servers: Servers) -> None:
    """What was published twice stands in the table twice."""
    fault = replace(FAULTS["published twice at once"], act=wait_for_more)  # its own act asks for duplicates at once
    outcome = await play_broken(servers, fault, "knows_no_ids")
    assert outcome.counts["doubled"] > 0


@pytest.mark.chaos
async def test_columns_and_reasons_that_are_mixed_up_are_noticed(servers: Servers) -> None:
    """Every event is there once, and no total is wrong."""
    outcome = await play_broken(servers, fault_of(wait_for_more), "misreads")
    wrong = {kind for kind, count in outcome.counts.items() if count}
    assert wrong == {"misread", "wrong_reason"}


async def cut_once(stage: Stage, _: random.Random) -> None:
    """Every worker loses its channel."""
    await stage.workers_to_rabbitmq.cut()


@pytest.mark.chaos
async def test_a_worker_that_takes_nothing_more_is_noticed(servers: Servers) -> None:
    """The other one stores what comes, so that nothing is lost and nothing doubled."""
    outcome = await play_broken(servers, fault_of(cut_once), "goes_deaf")
    assert not any(outcome.counts.values())
    assert any("each worker writes" in text for text in outcome.otherwise)


@pytest.mark.chaos
@pytest.mark.parametrize("servers", [Arrangement.FAILOVER], indirect=True)
async def test_commits_that_did_not_wait_for_the_standby_are_noticed(servers: Servers) -> None:
    """What only the lost primary had was acknowledged, and is missing from the books of the new one."""
    fault = FAULTS["failover after commits were told not to wait"]
    outcome = await play_broken(servers, fault, "knows_no_standby")
    assert outcome.counts["lost"] > 0


@pytest.mark.chaos
async def test_the_same_faults_find_nothing_in_the_product(servers: Servers) -> None:
    """It is the mistake that is noticed, and not what was done to the worker."""
    for act in (kill_all, cut_all):
        outcome = await play(servers, [fault_of(act)], 1)
        print(outcome.line())  # noqa: T201 - shown where it fails
        assert outcome.is_right
