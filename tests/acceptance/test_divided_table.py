"""What other files show of the commands, on a table that is divided, half of all random ids in its last partition."""

import pytest
from acceptance.test_duplicates import (
    test_everything_twice_and_a_kill_doubles_nothing,
    test_overlapping_batches_in_other_orders_do_not_deadlock,
    test_two_contents_in_two_workers_at_once,
    test_what_committed_unacknowledged_is_known_when_it_comes_again,
)
from acceptance.test_erase_command import (
    ada,
    test_nothing_is_left_of_them,
    test_rows_that_stay_without_a_name,
)
from acceptance.test_find import test_each_id_has_one_answer, test_the_books_of_a_ledger
from acceptance.test_replay_command import test_a_session_of_an_operator
from acceptance.test_retain_command import test_beside_a_worker, test_rows_in_other_hands, test_what_is_old_goes
from dividing import divided

__all__ = [
    "ada",
    "test_a_session_of_an_operator",
    "test_beside_a_worker",
    "test_each_id_has_one_answer",
    "test_everything_twice_and_a_kill_doubles_nothing",
    "test_nothing_is_left_of_them",
    "test_overlapping_batches_in_other_orders_do_not_deadlock",
    "test_rows_in_other_hands",
    "test_rows_that_stay_without_a_name",
    "test_the_books_of_a_ledger",
    "test_two_contents_in_two_workers_at_once",
    "test_what_committed_unacknowledged_is_known_when_it_comes_again",
    "test_what_is_old_goes",
]


@pytest.fixture
async def migrated_dsn(migrated_dsn: str) -> str:
    """Stands for the database of the other files."""
    return await divided(migrated_dsn)
