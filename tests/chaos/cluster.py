"""A cluster of three RabbitMQ nodes as local processes, on the wires of `chaos.distribution`."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

from chaos.distribution import Wires
from chaos.registry import NotHereError
from worker.demo.hosts import LOOPBACK, free_ports
from worker.demo.processes import LocalProcess, ThrowAwayFolder
from worker.demo.rabbitmq_server import INSTALL, RabbitServer, _configure, _environment, find_script
from worker.errors import SystemUnavailableError

NODES = 3
HOST = "localhost"
# A node that says nothing is taken for gone after so long. RabbitMQ's own default is 60 s.
TICK_SECONDS = 5
# What the RabbitMQ Cluster Operator sets, and RabbitMQ advises for three nodes. It has no effect where Khepri is
# enabled, as it always is from 4.3 on.
PARTITION_HANDLING = "pause_minority"
WHOLE_SECONDS_MAX = 120.0
_AWAY = (OSError, HTTPException)
_Seen = TypeVar("_Seen")


@dataclass(slots=True, frozen=True)
class Queue:
    """A quorum queue as a node sees it, by the names of nodes; `leader` may be empty for a moment."""

    leader: str
    members: list[str]
    online: list[str]


class Node(RabbitServer):
    """One node. Its methods block, as a server's do."""

    def __init__(self, name: str, host: LocalProcess, ports: Sequence[int]) -> None:
        amqp, management = ports
        url = f"http://guest:guest@{LOOPBACK}:{management}"
        super().__init__(f"amqp://guest:guest@{LOOPBACK}:{amqp}/", host, management_url=url)
        self.name = name
        self.process = host

    @property
    def port(self) -> int:
        """Where it speaks AMQP."""
        return urlsplit(self.amqp_url).port or 0

    def refuses(self) -> bool:
        """Whether it takes no AMQP connection: it has ended, or has paused itself."""
        try:
            return not self.version
        except OSError:
            return True

    def queue(self, name: str) -> Queue:
        """A quorum queue as this node sees it.

        Raises:
            OSError, HTTPException: it does not answer now.
        """
        seen = self.manage("GET", f"/api/queues/%2F/{quote(name, safe='')}")
        return Queue(seen.get("leader") or "", sorted(seen["members"]), sorted(seen["online"]))

    def running(self) -> set[str]:
        """The nodes that it believes to be in the cluster now."""
        return {node["name"] for node in self.manage("GET", "/api/nodes") if node["running"]}

    def partitions(self) -> list[str]:
        """The nodes that it has found to have gone on without it: an operator must restart one side."""
        (seen,) = (node for node in self.manage("GET", "/api/nodes") if node["name"] == self.name)
        return list(seen.get("partitions") or [])

    def evaluate(self, expression: str) -> None:
        """Run Erlang on it."""
        script = find_script()
        assert script is not None
        command: list[str | Path] = [script.with_name("rabbitmqctl"), "eval", expression]
        self.process._folder.run(command, {**self.process._environment, "RABBITMQ_LOGS": ""})


class Cluster(RabbitServer):
    """The nodes as one broker: what is asked of it is asked of any node that answers.

    Clients connect through a load balancer to `ports`. `joins_by_itself` where sides that have gone on apart find
    together again: with Khepri they do, as always from 4.3 on.
    """

    def __init__(self, nodes: Sequence[Node], wires: Wires) -> None:
        first = nodes[0]
        super().__init__(first.amqp_url, first.process, management_url=first.management_url)
        self.nodes = nodes
        self._wires = wires
        self.joins_by_itself = False

    @property
    def ports(self) -> list[int]:
        """Where they speak AMQP."""
        return [node.port for node in self.nodes]

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """See `RabbitServer.manage`."""
        for node in self.nodes[:-1]:
            with suppress(OSError):
                return node.manage(method, path, body)
        return self.nodes[-1].manage(method, path, body)

    def others(self, *nodes: Node) -> list[Node]:
        """All but these."""
        return [node for node in self.nodes if node not in nodes]

    def named(self, name: str) -> Node:
        """The node of this name."""
        (found,) = (node for node in self.nodes if node.name == name)
        return found

    def part(self, alone: Node) -> None:
        """This node and the two others do not reach each other until `heal`: packets are lost, no side is told."""
        self._wires.part([_short(alone.name)], [_short(node.name) for node in self.others(alone)])

    def held(self) -> int:
        """How often something was held back between nodes that were apart."""
        return int(self._wires.tell()["held"])

    def heal(self) -> None:
        """All nodes reach each other."""
        self._wires.part()

    def start(self) -> None:
        """Start those that do not run, all at once: they wait for each other."""
        for node in self.nodes:
            if not node.process.is_running():
                node.process.start()
        self.wait_until_ready()

    def kill(self) -> None:
        """SIGKILL every process of each."""
        for node in self.nodes:
            node.process.kill()

    def wait_until_ready(self) -> None:
        """Wait until each answers, and each sees all the others."""
        for node in self.nodes:
            RabbitServer.wait_until_ready(node)
        names = {node.name for node in self.nodes}
        for node in self.nodes:
            _wait(node.running, lambda running: running == names, f"{node.name} sees {sorted(names)}")
            _wait(node.partitions, lambda partitions: not partitions, f"{node.name} agrees with the others")

    def wait_until_whole(self, *queues: str) -> None:
        """Wait until every node is a member of these queues and has come back to each."""
        self.wait_until_ready()
        names = sorted(node.name for node in self.nodes)
        for queue in queues:
            for node in self.nodes:
                _wait(
                    partial(node.queue, queue),
                    lambda seen: seen.members == seen.online == names and seen.leader in names,
                    f"{queue} has its members {names} again",
                )

    def mend(self) -> None:
        """Let all run and reach each other again, whatever a fault has left."""
        self.heal()
        for node in self.nodes:
            node.thaw()
        try:
            self.start()
        except (TimeoutError, SystemUnavailableError):  # they do not find together: all anew
            self.kill()
            self.start()

    def close(self) -> None:
        """End them and delete their data."""
        for node in self.nodes:
            node.close()


@contextmanager
def rabbitmq_cluster() -> Iterator[Cluster]:
    """Three nodes, joined.

    Raises:
        NotHereError: there is no rabbitmq-server on this machine.
    """
    script = find_script()
    if script is None:
        raise NotHereError(f"a cluster is of local processes, and there is no rabbitmq-server: {INSTALL}")
    with ExitStack() as stack:
        wires = stack.enter_context(Wires())
        cluster_id = uuid4().hex[:8]
        names = [f"usage-{cluster_id}-{number}@{HOST}" for number in range(1, NODES + 1)]
        cookie = uuid4().hex
        nodes = [stack.enter_context(_node(script, name, names, wires.port, cookie)) for name in names]
        cluster = Cluster(nodes, wires)
        nodes[0].start()
        cluster.start()
        flags = cluster.manage("GET", "/api/feature-flags")
        cluster.joins_by_itself = any(flag["name"] == "khepri_db" and flag["state"] == "enabled" for flag in flags)
        yield cluster


def _node(script: Path, name: str, names: Sequence[str], mapper_port: int, cookie: str) -> Node:
    """A node that has not been started; at its first start it joins those of the others that run."""
    folder = ThrowAwayFolder("rabbitmq", user="rabbitmq")
    amqp, management, distribution = free_ports(3)
    _configure(folder.path, amqp, management, (), _settings(name, names[0]))
    file = folder.path / ".erlang.cookie"
    file.write_text(cookie)
    file.chmod(0o400)
    if folder.identity:
        shutil.chown(file, folder.identity["user"], folder.identity["group"])
    environment = _environment(folder.path, distribution, mapper_port) | {"RABBITMQ_NODENAME": name}
    environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" -kernel net_ticktime {TICK_SECONDS}"
    return Node(name, LocalProcess(folder, [script], environment), (amqp, management))


def _settings(name: str, first: str) -> dict[str, str]:
    """The first is a cluster of one when it starts; each other joins it."""
    peers = dict.fromkeys([first, name])
    return {
        "cluster_partition_handling": PARTITION_HANDLING,
        "cluster_formation.peer_discovery_backend": "classic_config",
        **{f"cluster_formation.classic_config.nodes.{number}": peer for number, peer in enumerate(peers, 1)},
    }


def _short(name: str) -> str:
    return name.partition("@")[0]


def _wait(look: Callable[[], _Seen], is_right: Callable[[_Seen], bool], what: str) -> None:
    """Look until it is right; a node that does not answer is looked at again.

    Raises:
        TimeoutError: it does not become right; with what was seen last.
    """
    give_up_at = monotonic() + WHOLE_SECONDS_MAX
    while True:
        seen: object
        try:
            found = look()
            if is_right(found):
                return
            seen = found
        except _AWAY as error:
            seen = error
        if monotonic() > give_up_at:
            raise TimeoutError(f"waited {WHOLE_SECONDS_MAX:g} s in vain until {what}: {seen!r}")
        sleep(0.1)
