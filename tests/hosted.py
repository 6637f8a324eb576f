"""A database of a host application's own, with the roles of `schema/roles.sql`, for the tests of these roles."""

import subprocess
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from desk import run_command
from harness.events import ORGANIZATION, USER

from worker.demo.postgres_server import PostgresServer, given_postgres
from worker.postgres.roles import ROLES

PASSWORD = "throw-away"


class Hosted(NamedTuple):
    """A database whose users and organizations belong to a host application."""

    admin: str

    def dsn(self, role: str) -> str:
        """Where it is, for this role."""
        parts = urlsplit(self.admin)
        return parts._replace(netloc=f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()

    def run(self, role: str | None, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as this role, run to its end."""
        return run_command(self.admin if role is None else self.dsn(role), *arguments, **environment)


def execute(dsn: str, statements: str) -> None:
    """Statements on a connection of their own."""
    given_postgres(dsn).execute(statements)


def make_host(server: PostgresServer) -> Hosted:
    """A fresh database with a host's tables in it, and no usage tables."""
    name = f"hosted_{uuid4().hex[:12]}"
    hosted = Hosted(server.create_database(name))
    (
        execute(
            hosted.admin,
            f"""
            DO $$ BEGIN CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT CREATE ON SCHEMA public TO shop;
            SET ROLE shop;
            CREATE TABLE users (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), email TEXT);
            CREATE TABLE organizations (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name TEXT);
            CREATE TABLE invoices (id UUID PRIMARY KEY);
            INSERT INTO users VALUES ('{USER}', 'ada@example.com');
            INSERT INTO organizations VALUES ('{ORGANIZATION}', 'Example');
            """,
        )
    )
    return hosted


def let_log_in(hosted: Hosted) -> None:
    """What the page tells an administrator to do."""
    (execute(hosted.admin, ";".join(f"ALTER ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in ROLES)))
