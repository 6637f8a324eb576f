"""Fixtures of the chaos suite: servers that may be broken."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from chaos.arrangement import Arrangement
from chaos.registry import NotHereError
from chaos.servers import chaos_servers
from chaos.stage import Servers


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The servers of an arrangement, a test's parameter, else the single ones; each run leaves them whole."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(chaos_servers(getattr(request, "param", Arrangement.SINGLE)))
        except NotHereError as error:
            pytest.skip(str(error))
        yield started
