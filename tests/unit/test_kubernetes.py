"""The manifests: valid for Kubernetes, for the operators that read them, and in step with the worker's code."""

import json
import os
import re
import shutil
import subprocess
import textwrap
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from benchmarks.report import LATEST
from benchmarks.sheet import Sheet
from custom_resources import SCHEMAS
from manifests import ALERTS, EXAMPLES, KUBERNETES, ROOT, RULES, Manifest, alerts, one, pod_of, read, resolve, variables

from worker.app import LEAVE_SECONDS_MAX
from worker.cli import cli
from worker.metrics import Metrics
from worker.settings import PREFIX, SECRETS, Settings, load_settings

ALL = resolve()
BASE = resolve(KUBERNETES / "base")
OPTIONAL = [KUBERNETES / "retention", KUBERNETES / "partitions"]  # for who asks for them
RETENTION = [manifest for folder in OPTIONAL for manifest in resolve(folder)]
OWN = [manifest for manifest in ALL if manifest["kind"] not in SCHEMAS]
CUSTOM = [manifest for manifest in ALL if manifest["kind"] in SCHEMAS]
PODS = [manifest for manifest in (*ALL, *RETENTION) if pod_of(manifest)]
WORKER = one("Deployment", "usage-worker", ALL)
DOCS = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
OLDEST = "1.31"  # the first in which all that is used is stable
STOPPING_MARGIN_SECONDS = 5
HELD_COPIES = 2  # a body is held as it came, and as the events that were read from it


def name_of(manifest: Manifest) -> str:
    """How a manifest is called in a test's name."""
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def container_of(manifest: Manifest) -> Manifest:
    """The one container of a manifest's pods."""
    pod = pod_of(manifest)
    assert pod is not None
    (container,) = pod["spec"]["containers"]
    return dict(container)


def spec_of(manifest: Manifest) -> Manifest:
    """The specification of a manifest's pods."""
    pod = pod_of(manifest)
    assert pod is not None
    return dict(pod["spec"])


def labels_of(manifest: Manifest) -> Manifest:
    """The labels of a manifest's pods."""
    pod = pod_of(manifest)
    assert pod is not None
    return dict(pod["metadata"]["labels"])


def selects(selector: Manifest, labels: Manifest) -> bool:
    """Whether a selector's labels are among these."""
    return bool(selector) and selector.items() <= labels.items()


def test_every_file_is_in_the_cluster_or_an_example() -> None:
    """No manifest is forgotten by the kustomizations, and no secret is applied from the repository."""
    named = {
        (path.parent / resource).resolve()
        for path in KUBERNETES.rglob("kustomization.yaml")
        for resource in read(path)[0]["resources"]
    }
    files = {path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files - named == {EXAMPLES}
    assert not any(manifest["kind"] == "Secret" for manifest in (*ALL, *RETENTION))


def test_nothing_is_deleted_without_being_asked_for() -> None:
    """The CronJobs of retention and partitions are applied by nobody who has not added their folders."""
    for name in ("usage-worker-retain", "usage-worker-partitions"):
        assert one("CronJob", name, RETENTION)["spec"]["concurrencyPolicy"] == "Forbid"
    assert not any(manifest["kind"] == "CronJob" for manifest in ALL)


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would apply."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", [KUBERNETES, KUBERNETES / "base", *OPTIONAL], ids=lambda path: path.name)
def test_kustomize_makes_the_same_of_them(folder: Path) -> None:
    """What these tests look at is what kustomize makes of it."""
    made = {name_of(manifest): manifest for manifest in kustomize(folder)}
    assert made == {name_of(manifest): manifest for manifest in resolve(folder)}


def test_a_kustomization_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    """These tests do not look at half of what is applied."""
    (tmp_path / "kustomization.yaml").write_text("resources: []\npatches: []\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"\['patches'\] is not known"):
        resolve(tmp_path)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", [*OWN, *RETENTION, *read(EXAMPLES)], ids=name_of)
def test_kubernetes_takes_them(manifest: Manifest, version: str) -> None:
    """Each is valid by Kubernetes's own schema, strictly: a misspelt field is not ignored."""
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", CUSTOM, ids=name_of)
def test_the_operators_take_them(manifest: Manifest) -> None:
    """What KEDA and the Prometheus Operator read has the fields that they document, and no other."""
    jsonschema.Draft202012Validator(SCHEMAS[manifest["kind"]]).validate(manifest)


def test_the_docs_name_what_exists() -> None:
    """docs/kubernetes.md lists every file, and no setting, metric or file that is not there."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    exported = {family.name for family in Metrics().registry.collect()}
    listed = re.findall(r"^\| `([\w./-]+\.yaml)`", DOCS, re.MULTILINE)
    files = {path.relative_to(KUBERNETES).as_posix() for path in KUBERNETES.rglob("*.yaml")}
    assert {*listed} == {name for name in files if not name.endswith("kustomization.yaml")}
    assert set(re.findall(r"\bUSAGE_[A-Z_]+\b", DOCS)) <= known
    assert {name.removesuffix("_total") for name in re.findall(r"\busage_worker_\w+", DOCS)} <= exported
    assert f"Kubernetes {OLDEST} or newer" in DOCS


def test_a_kustomization_of_ones_own_works_as_documented(tmp_path: Path) -> None:
    """The example, with this checkout in the place of the address: its image and addresses arrive where they belong."""
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    text = re.sub(r"https://git\.\S+", os.path.relpath(KUBERNETES, tmp_path), textwrap.dedent(example))
    text = text.replace("rabbitmq.rabbitmq", "mine.elsewhere")
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    made = kustomize(tmp_path)
    version = container_of(WORKER)["image"].split(":")[1]
    assert container_of(one("Deployment", "", made))["image"] == f"registry.example.com/usage-worker:{version}"
    backlog, age = one("ScaledObject", "", made)["spec"]["triggers"]
    assert backlog["metadata"]["host"] == "http://mine.elsewhere:15672/"
    assert age == one("ScaledObject", "", ALL)["spec"]["triggers"][1]


def test_the_base_needs_no_operator() -> None:
    """Without KEDA and the Prometheus Operator the base can be applied, and it lacks nothing else."""
    assert {name_of(manifest) for manifest in BASE} == {name_of(manifest) for manifest in OWN}


def test_alerts_are_those_that_are_tested() -> None:
    """The PrometheusRule is made of the rules of deploy/prometheus, and holds each of their groups."""
    assert ALERTS.read_text(encoding="utf-8") == alerts(), "run `make kubernetes-alerts`"
    groups = [group for path in sorted(RULES.glob("*.rules.yml")) for group in read(path)[0]["groups"]]
    assert one("PrometheusRule", "usage-worker", ALL)["spec"]["groups"] == groups != []


@pytest.mark.parametrize("manifest", PODS, ids=name_of)
def test_containers_run_the_released_image(manifest: Manifest) -> None:
    """The tag is the project's version, the user is the image's own, and the command exists, with its options."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    container, security = container_of(manifest), spec_of(manifest)["securityContext"]
    assert container["image"] == f"usage-worker:{version}"
    name, *arguments = container["args"]
    parent = click.Context(cli)
    command = cli.get_command(parent, name)
    assert command is not None, name
    command.make_context(name, arguments, parent=parent)  # refuses an option that it does not know
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_each_version_migrates_once() -> None:
    """A Job cannot be changed, so that of the next version has another name."""
    version = one("Deployment", "usage-worker", ALL)["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[1]
    assert one("Job", "usage-worker-migrate", ALL)["metadata"]["name"].endswith(f"-{version.replace('.', '-')}")


@pytest.mark.parametrize("manifest", PODS, ids=name_of)
def test_pods_are_locked_down(manifest: Manifest) -> None:
    """What the namespace enforces and more: no root, nothing to write to, no privilege, no account of Kubernetes."""
    spec, container = spec_of(manifest), container_of(manifest)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert one("Namespace", "usage", ALL)["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.mark.parametrize("manifest", PODS, ids=name_of)
def test_every_variable_is_a_setting(manifest: Manifest) -> None:
    """No variable is set that nothing reads, and secrets come from files alone."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name not in SECRETS}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    given = variables(container_of(manifest))
    assert given
    assert given.keys() <= known


@pytest.mark.parametrize("manifest", PODS, ids=name_of)
def test_the_settings_are_accepted(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the secrets of the example, mounted where the manifest mounts them, the worker's settings are valid."""
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container_of(manifest)["volumeMounts"]}
    for volume in spec_of(manifest)["volumes"]:
        secret = one("Secret", volume["secret"]["secretName"], read(EXAMPLES))
        folder = tmp_path / mounts[volume["name"]].relative_to("/")
        folder.mkdir(parents=True)
        for item in volume["secret"]["items"]:
            (folder / item["path"]).write_text(secret["stringData"][item["key"]], encoding="utf-8")
    for name, value in variables(container_of(manifest)).items():
        monkeypatch.setenv(name, str(tmp_path / value.lstrip("/")) if name.endswith("_FILE") else value)
    settings = load_settings()
    assert "REPLACE" in settings.postgres_dsn.get_secret_value()
    assert ("REPLACE" in settings.amqp_url.get_secret_value()) == (manifest is WORKER)


def test_secrets_are_placeholders_and_each_is_used() -> None:
    """The example holds every secret that is named elsewhere, no other, and no password that would work."""
    used = {
        (spec["secret"]["secretName"], item["key"])
        for manifest in PODS
        for spec in spec_of(manifest)["volumes"]
        for item in spec["secret"]["items"]
    }
    references = one("TriggerAuthentication", "usage-worker", ALL)["spec"]["secretTargetRef"]
    used |= {(reference["name"], reference["key"]) for reference in references}
    assert used == {(secret["metadata"]["name"], key) for secret in read(EXAMPLES) for key in secret["stringData"]}
    for secret in read(EXAMPLES):
        assert secret["metadata"]["namespace"] == WORKER["metadata"]["namespace"]
        assert "REPLACE_" in " ".join(secret["stringData"].values())
        for text in secret["stringData"].values():
            assert re.search(r"^[\w-]+$|:REPLACE_[A-Z_]+@", text), text


def test_the_secrets_name_the_documented_users() -> None:
    """Postgres's roles and RabbitMQ's users are those of their own files, and workers need not declare anything."""
    roles = (ROOT / "schema" / "roles.sql").read_text(encoding="utf-8")
    broker = json.loads((ROOT / "deploy" / "rabbitmq" / "definitions.json").read_text(encoding="utf-8"))
    users = {user["name"]: user for user in broker["users"]}
    for secret in read(EXAMPLES):
        data = secret["stringData"]
        if "postgres-dsn" in data:
            assert f"'{urlsplit(data['postgres-dsn']).username}'" in roles
        if "amqp-url" in data:
            assert urlsplit(data["amqp-url"]).username in users
        if "username" in data:
            assert users[data["username"]]["tags"] == ["monitoring"]
            assert data["username"] in {permission["user"] for permission in broker["permissions"]}
    assert variables(container_of(WORKER))["USAGE_TOPOLOGY"] == "passive"


def test_the_owner_migrates_and_nobody_else() -> None:
    """The tables' owner is for the commands that need it; the worker has its own role."""
    names = {name_of(manifest): spec_of(manifest)["volumes"][0]["secret"]["secretName"] for manifest in PODS}
    assert names[name_of(WORKER)] == "usage-worker"
    assert {name for key, name in names.items() if key != name_of(WORKER)} == {"usage-owner"}


def test_probes_and_prometheus_reach_the_port() -> None:
    """The worker listens on the pod's addresses at the port that probes, Service, monitor and policy name."""
    container, environment = container_of(WORKER), variables(container_of(WORKER))
    (port,) = container["ports"]
    assert environment["USAGE_HTTP_HOST"] == "0.0.0.0"
    assert environment["USAGE_HTTP_PORT"] == str(port["containerPort"])
    paths = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in paths.values()} == {port["name"]}
    assert [probe["path"] for probe in paths.values()] == ["/livez", "/livez", "/readyz"]
    (service_port,) = one("Service", "usage-worker", ALL)["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    (endpoint,) = one("ServiceMonitor", "usage-worker", ALL)["spec"]["endpoints"]
    assert endpoint["port"] == service_port["name"]
    (ingress,) = one("NetworkPolicy", "usage-worker", ALL)["spec"]["ingress"]
    assert [allowed["port"] for allowed in ingress["ports"]] == [port["name"]]


def test_a_worker_without_its_servers_is_still_watched() -> None:
    """It is not ready then, and its figures are wanted most."""
    assert one("Service", "usage-worker", ALL)["spec"]["publishNotReadyAddresses"] is True


def test_stopping_has_room() -> None:
    """SIGKILL comes after the worker's own deadline, what it takes to leave, and a margin."""
    container = container_of(WORKER)
    default = Settings.model_fields["shutdown_timeout"].default
    deadline = float(variables(container).get("USAGE_SHUTDOWN_TIMEOUT", default))
    hook = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    room = spec_of(WORKER)["terminationGracePeriodSeconds"]
    assert room >= hook + deadline + LEAVE_SECONDS_MAX + STOPPING_MARGIN_SECONDS


def test_selectors_find_the_workers_and_nobody_else() -> None:
    """Deployment, Service, budget, spreading and monitor mean the workers; the policy every pod that is made here."""
    worker = labels_of(WORKER)
    others = [labels_of(manifest) for manifest in PODS if manifest is not WORKER]
    selectors = [
        WORKER["spec"]["selector"]["matchLabels"],
        one("Service", "usage-worker", ALL)["spec"]["selector"],
        one("PodDisruptionBudget", "usage-worker", ALL)["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in spec_of(WORKER)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selects(selector, worker)
        assert not any(selects(selector, labels) for labels in others)
    monitored = one("ServiceMonitor", "usage-worker", ALL)["spec"]["selector"]["matchLabels"]
    assert selects(monitored, one("Service", "usage-worker", ALL)["metadata"]["labels"])
    policy = one("NetworkPolicy", "usage-worker", ALL)["spec"]["podSelector"]["matchLabels"]
    assert all(selects(policy, labels) for labels in (worker, *others))


def test_nothing_goes_out_but_names_postgres_and_rabbitmq() -> None:
    """The policy closes both directions and opens these ports, each to somebody."""
    policy = one("NetworkPolicy", "usage-worker", ALL)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = [{(port["protocol"], port["port"]) for port in rule["ports"]} for rule in policy["egress"]]
    assert opened == [{("UDP", 53), ("TCP", 53)}, {("TCP", 5432)}, {("TCP", 5672), ("TCP", 5671)}]
    names, *servers = [rule["to"] for rule in policy["egress"]]
    assert all(peer.keys() == {"namespaceSelector", "podSelector"} for peers in servers for peer in peers)
    assert [peer["ipBlock"]["cidr"] for peer in names if "ipBlock" in peer] == ["169.254.20.10/32"]


def test_memory_is_enough_for_what_a_worker_may_hold() -> None:
    """What is measured at a large backlog, with every byte that may be held besides, stays below the limit."""
    line = Sheet.read(LATEST).find("memory", "worker", 1_000_000)
    assert line is not None
    held_mib = Settings.model_fields["held_bytes_max"].default / 2**20
    limit = container_of(WORKER)["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) >= line.median("peak_memory_mib") + HELD_COPIES * held_mib


def test_the_number_of_replicas_is_left_to_the_autoscaler() -> None:
    """An apply does not reset what was scaled, and a drained node is not held up by a budget."""
    assert "replicas" not in WORKER["spec"]
    assert one("PodDisruptionBudget", "usage-worker", ALL)["spec"]["maxUnavailable"] >= 1
