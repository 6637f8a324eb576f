"""A RabbitMQ of one's own: throw-away, for the demonstration and the tests."""

import base64
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from pamqp import commands, exceptions, frame

from worker.demo.hosts import LOOPBACK, Host, Untouched, free_ports, wait_until_ready
from worker.errors import ConfigurationError

IMAGE = "rabbitmq:4.3-management"
CONNECT_SECONDS_MAX = 5.0
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HTTP_NO_CONTENT = 204
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
INSTALL = """install RabbitMQ:
  Debian, Ubuntu:  apt-get install rabbitmq-server
  macOS:           brew install rabbitmq"""

# First the script behind Debian's wrapper: the wrapper writes to the log of the system's own broker.
_SCRIPTS = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), Path("/opt/homebrew/sbin/rabbitmq-server"))
_NOT_READY = (OSError, HTTPException, exceptions.UnmarshalingException)


class RabbitServer:
    """A running broker. Its methods block: from a coroutine call them through `asyncio.to_thread`."""

    def __init__(self, amqp_url: str, host: Host, *, management_url: str | None = None) -> None:
        self.amqp_url = amqp_url
        self.management_url = management_url
        self._host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The id of the broker's first process."""
        return self._host.pid

    @property
    def version(self) -> str:
        """The version that the broker gives when it is greeted."""
        return str(_greet(self.amqp_url)["version"])

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API, as in `manage("DELETE", "/api/connections/…")`.

        Returns:
            What it answers, read as JSON; None where it answers nothing.

        Raises:
            ConfigurationError: there is no management API.
            HTTPException: it refuses the call, and how.
        """
        if self.management_url is None:
            raise ConfigurationError("the given broker's management API is not known: unset USAGE_AMQP_URL")
        return _call(self.management_url, method, path, body)

    def list_queues(self) -> dict[str, int]:
        """The queues by name, with the messages in each as the broker last counted them."""
        return {queue["name"]: int(queue.get("messages", 0)) for queue in self.manage("GET", "/api/queues")}

    def start(self) -> None:
        """Start it again on its ports with its data, and wait until it answers."""
        self._host.start()
        self.wait_until_ready()

    def stop(self) -> None:
        """Stop it cleanly."""
        self._host.stop(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL every process of it. A queue declared in its last second may be lost: it is noted with a delay."""
        self._host.kill()

    def restart(self) -> None:
        """Stop it cleanly and start it; ports and data stay."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP every process of it: connections stay open and nobody answers."""
        self._host.freeze()

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._host.thaw()

    def wait_until_ready(self) -> None:
        """Wait until it greets on AMQP, and its management API answers where it has one."""
        wait_until_ready("RabbitMQ", self._host, lambda: _greet(self.amqp_url), _NOT_READY)
        if self.management_url is not None:
            wait_until_ready("RabbitMQ", self._host, lambda: self.manage("GET", "/api/overview"), _NOT_READY)

    def close(self) -> None:
        """End it and delete its data; a given broker stays as it is."""
        self._host.remove()


def given_rabbitmq(amqp_url: str) -> RabbitServer:
    """The broker behind a URL that a user has given."""
    return RabbitServer(amqp_url, Untouched("USAGE_AMQP_URL"))


def docker_rabbitmq(plugins: Sequence[str] = ()) -> RabbitServer:
    """Start a container, with these plugins beside management."""
    from worker.demo.containers import Container

    amqp, management = free_ports(2)
    enable = f"rabbitmq-plugins enable --offline {' '.join(plugins)}"
    host = Container(
        IMAGE,
        ports={5672: amqp, 15672: management},
        environment={},
        command=["sh", "-c", f"{enable} && exec docker-entrypoint.sh rabbitmq-server"] if plugins else [],
        stop_command=["rabbitmqctl", "shutdown"],
    )
    return _started(host, host.address, amqp, management)


def local_rabbitmq(plugins: Sequence[str] = (), settings: Mapping[str, str] = NO_SETTINGS) -> RabbitServer:
    """Start a local process, from the machine's rabbitmq-server, with these plugins beside management.

    `settings` are added to its configuration.

    Raises:
        ConfigurationError: there is none; with the command that installs it.
    """
    script = find_script()
    if script is None:
        raise ConfigurationError(f"there is no rabbitmq-server on this machine: {INSTALL}")
    from worker.demo.processes import LocalProcess, ThrowAwayFolder

    folder = ThrowAwayFolder("rabbitmq", user="rabbitmq")
    amqp, management, distribution, epmd = free_ports(4)
    _configure(folder.path, amqp, management, plugins, settings)
    # Erlang's port mapper would stay as a daemon; one of its own, in its process group, ends with the broker.
    command: list[str | Path] = ["/bin/sh", "-c", f'epmd -address {LOOPBACK} -port {epmd} & exec "$0"', script]
    host = LocalProcess(folder, command, _environment(folder.path, distribution, epmd))
    return _started(host, LOOPBACK, amqp, management)


def find_script() -> Path | None:
    """The script that starts the machine's RabbitMQ, if there is one."""
    for script in _SCRIPTS:
        if script.exists():
            return script
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


def _started(host: Host, address: str, amqp: int, management: int) -> RabbitServer:
    server = RabbitServer(
        f"amqp://guest:guest@{address}:{amqp}/", host, management_url=f"http://guest:guest@{address}:{management}"
    )
    try:
        server.start()
    except BaseException:  # Ctrl-C, too
        server.close()
        raise
    return server


def _configure(folder: Path, amqp: int, management: int, plugins: Sequence[str], settings: Mapping[str, str]) -> None:
    (folder / "enabled_plugins").write_text(f"[{','.join(('rabbitmq_management', *plugins))}].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {LOOPBACK}:{amqp}\n"
        f"management.tcp.ip = {LOOPBACK}\n"
        f"management.tcp.port = {management}\n"
        "disk_free_limit.absolute = 50MB\n"
        "collect_statistics_interval = 1000\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )


def _environment(folder: Path, distribution: int, epmd: int) -> dict[str, str]:
    """Everything of its own, so that it stands beside the machine's broker and beside others like it."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),  # holds the cookie
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_NODENAME": f"usage-{uuid4().hex[:8]}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "no-rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "no-advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
    }


def _greet(amqp_url: str) -> dict[str, Any]:
    """The properties that the broker sends first; connects and goes away again."""
    parts = urlsplit(amqp_url)
    with socket.create_connection((parts.hostname or LOOPBACK, parts.port or 5672), CONNECT_SECONDS_MAX) as opened:
        opened.sendall(PROTOCOL_HEADER)
        received = b""
        while True:
            more = opened.recv(65536)
            if not more:
                raise ConnectionResetError("the broker closed the connection instead of greeting")
            received += more
            try:
                method = frame.unmarshal(received)[2]
            except exceptions.UnmarshalingException:
                continue  # not all of it has come
            if not isinstance(method, commands.Connection.Start):
                raise ConnectionResetError(f"the broker greeted with {method.name}")
            return dict(method.server_properties or {})


def _call(url: str, method: str, path: str, body: object) -> Any:
    parts = urlsplit(url)
    login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    connection = HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=CONNECT_SECONDS_MAX)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Authorization": f"Basic {login}", "Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if not response.status < 300:  # noqa: PLR2004 - every status of success
        raise HTTPException(f"{method} {path} of the management API: {response.status} {answer.decode()}")
    return json.loads(answer) if answer else None
