"""The hosts of a DSN, one by one."""

import pytest

from worker.postgres.hosts import each_host


@pytest.mark.parametrize(
    ("dsn", "each"),
    [
        ("postgresql://u:p@h/db", ["postgresql://u:p@h/db"]),
        ("postgresql:///db?host=/run/a,/run/b", ["postgresql:///db?host=/run/a,/run/b"]),
        ("postgresql://a,b:6000/db", ["postgresql://a/db", "postgresql://b:6000/db"]),
        (
            "postgresql://u:p,%40,@h1:1,h2,h3:3/db?sslmode=require",
            [f"postgresql://u:p,%40,@{host}/db?sslmode=require" for host in ("h1:1", "h2", "h3:3")],
        ),
    ],
)
def test_each_host_has_a_dsn_of_its_own(dsn: str, each: list[str]) -> None:
    """All else is kept, whatever stands in the password; one host, or hosts named elsewhere, are left as they are."""
    assert each_host(dsn) == each
