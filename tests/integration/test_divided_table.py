"""What other files show of the adapter, on a table that is divided, half of all random ids in its last partition."""

import pytest
from dividing import divided
from integration.test_books import (
    tables,
    test_a_letter_of_a_whole_message_stands_for_the_ids_in_it,
    test_each_id_is_counted_in_one_place,
    test_the_time_of_a_ledger_does_not_hang_on_the_tables,
)
from integration.test_heal import database, test_only_what_can_be_healed_is
from integration.test_isolation import (
    connection,
    store,
    test_a_parent_that_is_deleted_while_its_batch_merges,
    test_one_bad_row_is_set_aside_wherever_it_stands,
    test_what_copy_refuses_is_found_by_its_line,
)

__all__ = [
    "connection",
    "database",
    "store",
    "tables",
    "test_a_letter_of_a_whole_message_stands_for_the_ids_in_it",
    "test_a_parent_that_is_deleted_while_its_batch_merges",
    "test_each_id_is_counted_in_one_place",
    "test_one_bad_row_is_set_aside_wherever_it_stands",
    "test_only_what_can_be_healed_is",
    "test_the_time_of_a_ledger_does_not_hang_on_the_tables",
    "test_what_copy_refuses_is_found_by_its_line",
]


@pytest.fixture
async def migrated_dsn(migrated_dsn: str) -> str:
    """Stands for the database of the other files."""
    return await divided(migrated_dsn)
