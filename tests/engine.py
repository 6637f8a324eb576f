"""The Docker engine's own command, for tests of the image and of docker-compose.yml."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from worker.demo.servers import why_no_container

ROOT = Path(__file__).parents[1]
BASE = "python:3.13-slim"
VERSION = "1.2.3-test"  # what the image under test is told to be
REVISION = "0123456789abcdef"


def why_no_engine(*images: str) -> str | None:
    """Why these images cannot be run here with the command `docker`, or None where they can."""
    reasons = [reason for image in images if (reason := why_no_container(image)) is not None]
    return reasons[0] if reasons else None


def docker(*arguments: str | Path, environment: dict[str, str] | None = None, status: int = 0) -> str:
    """What `docker …` prints, both outputs together.

    Args:
        arguments: of the command.
        environment: added to this process's own, without its USAGE_….
        status: the exit status that it must have.

    Raises:
        AssertionError: it ended otherwise; the text holds what it said.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=inherited | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"docker {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}"
    return done.stdout


def inspect(what: str) -> dict[str, Any]:
    """All that the engine knows of an image or a container."""
    (found,) = json.loads(docker("inspect", what))
    return dict(found)


class WorkerContainer:
    """The worker as the image runs it: the container's first process, on a root file system that nobody can write."""

    def __init__(self, image: str, environment: dict[str, str], *, name: str) -> None:
        """Start it on this machine's network; it is not ready yet."""
        self.name = name
        variables = [text for key, value in environment.items() for text in ("--env", f"{key}={value}")]
        restrictions = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        docker("run", "--detach", "--name", name, "--network", "host", *restrictions, *variables, image)

    @property
    def health(self) -> str:
        """What the image's health check has found: `starting`, `healthy` or `unhealthy`."""
        return str(inspect(self.name)["State"]["Health"]["Status"])

    @property
    def log(self) -> str:
        """All that it has written."""
        return docker("logs", self.name)

    def stop(self) -> int:
        """`docker stop`, which kills after ten seconds; the exit status, 137 where it was killed."""
        docker("stop", self.name)
        return int(inspect(self.name)["State"]["ExitCode"])

    def remove(self) -> None:
        """Kill it where it runs, and forget it."""
        docker("rm", "--force", "--volumes", self.name)


Start = Callable[..., WorkerContainer]


class Stack:
    """The services of docker-compose.yml, as a project of its own.

    Args:
        project: its name; it has no running containers yet.
        secrets: the folder that is made for its passwords.
        environment: what the file reads, such as the ports of this machine.
    """

    def __init__(self, project: str, secrets: Path, **environment: str) -> None:
        self.secrets = secrets
        self._project = project
        self._environment = environment | {"USAGE_SECRETS": str(secrets)}
        subprocess.run([ROOT / "deploy" / "compose" / "make-secrets", secrets], check=True, stderr=subprocess.DEVNULL)

    def compose(self, *arguments: str) -> str:
        """What `docker compose …` prints."""
        return docker("compose", "--project-name", self._project, *arguments, environment=self._environment)

    def config(self, **environment: str) -> dict[str, Any]:
        """How the engine reads the file, all profiles together."""
        text = docker(
            "compose", "--profile", "*", "config", "--format", "json", environment=self._environment | environment
        )
        return dict(json.loads(text))

    def url(self, secret: str) -> str:
        """The URL in one of the secrets, as this machine reaches the server."""
        parts = urlsplit((self.secrets / secret).read_text(encoding="utf-8").strip())
        port = self._environment[f"USAGE_{parts.hostname}_PORT".upper()]
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))

    def containers(self, service: str) -> list[str]:
        """The containers of a service, those that have ended among them."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspected(self, service: str) -> str:
        """All that the engine shows of the containers of a service."""
        return docker("inspect", *self.containers(service))

    def exit_statuses(self, service: str) -> list[int]:
        """How the containers of a service have ended."""
        return [int(inspect(container)["State"]["ExitCode"]) for container in self.containers(service)]
