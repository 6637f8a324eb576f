"""A throw-away RabbitMQ from the machine's own `rabbitmq-server`: own node name, ports, folders, cookie and epmd."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from worker.demo.process import ServerError, ServerProcess, free_port

USER = "rabbitmq"
PLUGINS = ("rabbitmq_management",)
# Debian's command drops rights in its own way; the script behind it is everybody's.
SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/sbin"), Path("/opt/homebrew/sbin"))
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
ANSWER_SECONDS_MAX = 5.0


def install_hint() -> str:
    """What to type for a broker of one's own."""
    command = "brew install rabbitmq" if sys.platform == "darwin" else "sudo apt-get install rabbitmq-server"
    return (
        f"there is no RabbitMQ here. Type: {command}\n"
        "or start a Docker engine, or set USAGE_AMQP_URL to a broker of your own"
    )


def script(name: str) -> Path | None:
    """One of RabbitMQ's scripts on this machine."""
    for folder in SCRIPTS:
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    return Path(found) if found else None


class LocalRabbit:
    """A broker of one's own on free ports of 127.0.0.1. It starts at once; `close` removes all of it."""

    kind = "local"

    def __init__(self) -> None:
        server = script("rabbitmq-server")
        if server is None:
            raise ServerError(install_hint())
        self._script = server
        self._server = ServerProcess("rabbitmq", user=USER)
        self.port = free_port()
        self.management_port = free_port()
        self.environment = self._make_environment()
        self.start()

    @property
    def amqp_url(self) -> str:
        """As its default user."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """Its HTTP API, as its default user."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    @property
    def pid(self) -> int:
        """The process id of the node's script, whose session holds the node."""
        return self._server.pid

    def start(self) -> None:
        """Start it, with the data and the ports that it had."""
        self._server.start([self._script], self.environment, self._answers)

    def stop(self) -> None:
        """Shut it down in order."""
        self.control("shutdown")
        self._server.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._server.end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It answers nothing from now on; connections stay open."""
        self._server.freeze()

    def thaw(self) -> None:
        """It goes on."""
        self._server.thaw()

    def close(self) -> None:
        """End it and remove everything."""
        self._server.end(signal.SIGKILL)
        self._server.remove()

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says.

        Raises:
            ServerError: it failed; its output is in the message.
        """
        command = script("rabbitmqctl")
        done = subprocess.run(  # noqa: S603 - RabbitMQ's own command
            [str(command), *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def queues(self) -> list[dict[str, Any]]:
        """Name, messages and consumers of each queue."""
        found = self.control("-q", "--formatter", "json", "list_queues", "name", "messages", "consumers")
        return list(json.loads(found))

    def _make_environment(self) -> dict[str, str]:
        folder = self._server.folder
        for name in ("data", "logs"):
            (folder / name).mkdir()
            self._server.give(folder / name)
        plugins = folder / "enabled_plugins"
        plugins.write_text(f"[{','.join(PLUGINS)}].\n", encoding="ascii")
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
            "disk_free_limit.absolute = 50MB\n",
            encoding="ascii",
        )
        for path in (plugins, config):
            self._server.give(path)
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"usage-{uuid4().hex[:8]}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "data" / "feature_flags"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # An epmd of its own: nothing of ours stays behind, and nothing of others is in the way.
            "ERL_EPMD_PORT": str(free_port()),
        }

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS_MAX) as client:
                client.sendall(_PROTOCOL_HEADER)
                return client.recv(1) == b"\x01"  # a method frame: Connection.Start
        except OSError:
            return False
