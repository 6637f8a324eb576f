"""docker-compose.yml, without an engine: in step with the worker's code, and safe by what it says."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.app import LEAVE_SECONDS_MAX
from worker.cli import COMMANDS
from worker.demo import postgres_server, rabbitmq_server
from worker.settings import PREFIX, SECRETS, Settings, load_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
FILE = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = FILE["services"]
SERVERS = [name for name in SERVICES if name != "migrate"]
OURS = [name for name, service in SERVICES.items() if "usage-worker" in service["image"]]
MARGIN_SECONDS = 2.0


def seconds(text: str) -> float:
    """A duration as compose writes it: `30s`, `1m`."""
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr] # fails as it should
    return float(number) * {"s": 1, "m": 60}[unit]


def test_the_services_are_those_that_are_promised() -> None:
    """Their names are what operators type; monitoring is asked for."""
    assert {*SERVICES} == {"rabbitmq", "postgres", "migrate", "worker", "prometheus", "grafana"}
    profiles = {name: service.get("profiles") for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_its_servers_are_those_of_the_tests() -> None:
    """What the tests hold true, they hold true for these images."""
    assert SERVICES["postgres"]["image"] == postgres_server.IMAGE
    assert SERVICES["rabbitmq"]["image"] == rabbitmq_server.IMAGE


@pytest.mark.parametrize("name", OURS)
def test_each_setting_exists(name: str) -> None:
    """No variable is set that nothing reads, and each command is one."""
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    known |= {f"{PREFIX}{field.upper()}_FILE" for field in SECRETS}
    assert {*SERVICES[name]["environment"]} <= known
    assert SERVICES[name]["command"][0] in COMMANDS


def test_a_worker_has_time_to_stop() -> None:
    """It is killed only after it has given up by itself, with room."""
    worker = SERVICES["worker"]
    settings = load_settings(shutdown_timeout=worker["environment"]["USAGE_SHUTDOWN_TIMEOUT"])
    assert seconds(worker["stop_grace_period"]) >= settings.shutdown_timeout + LEAVE_SECONDS_MAX + MARGIN_SECONDS


def test_workers_can_be_scaled() -> None:
    """A name or a port of this machine would be one worker's alone."""
    assert not {"container_name", "hostname", "ports"} & SERVICES["worker"].keys()


def test_nothing_listens_to_the_world() -> None:
    """The default passwords are known to everybody: each port is on loopback alone."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVERS)
def test_what_runs_for_long_is_looked_after(name: str) -> None:
    """It comes back after a crash, and takes neither the whole machine nor, by its log, the whole disk."""
    service = SERVICES[name]
    assert {*service["logging"]["options"]} == {"max-size", "max-file"}
    assert service["restart"] == "unless-stopped"
    assert {*service["deploy"]["resources"]["limits"]} == {"cpus", "memory"}


@pytest.mark.parametrize("name", [*OURS, "prometheus"])
def test_ours_can_do_little(name: str) -> None:
    """No place to write, no capabilities, no more rights than at the start."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_passwords_come_in_files_alone() -> None:
    """No service has one in its environment, where `docker inspect` shows it; each secret that is used is defined."""
    environment = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert not {name for name in environment if re.search("PASS|SECRET|DSN|URL", name) and not name.endswith("_FILE")}
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == {*FILE["secrets"]}
    assert {*re.findall(r"/run/secrets/([\w-]+)", TEXT)} <= used


def test_secrets_are_made_as_the_insecure_ones_are(tmp_path: Path) -> None:
    """The script makes the same files, differing in the passwords alone, readable within a folder that is closed."""
    made = tmp_path / "secrets"
    subprocess.run([FOLDER / "make-secrets", made], check=True, capture_output=True)
    insecure = {path.name: path.read_text() for path in (FOLDER / "insecure-secrets").iterdir()}
    found = {path.name: path.read_text() for path in made.iterdir()}
    assert found.keys() == insecure.keys() == FILE["secrets"].keys()
    passwords = {name: text.strip() for name, text in found.items() if name.endswith("-password")}
    assert len(set(passwords.values())) == len(passwords)
    for name, text in found.items():
        for password in passwords.values():
            text = text.replace(password, "INSECURE-set-USAGE_SECRETS")  # noqa: PLW2901 - of each in turn
        assert text == insecure[name]
    assert made.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o644}


def test_secrets_are_never_made_twice(tmp_path: Path) -> None:
    """Servers keep the passwords of their first start, so the script leaves what is there."""
    for _ in range(2):
        done = subprocess.run([FOLDER / "make-secrets", tmp_path], check=True, capture_output=True, text=True)
        found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert done.stderr == ""
    (tmp_path / "worker-dsn").unlink()
    subprocess.run([FOLDER / "make-secrets", tmp_path], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == found


def test_prometheus_asks_where_workers_listen() -> None:
    """Every replica, at the port that the image has; the alerts come from the folder that is mounted."""
    asked = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in asked["scrape_configs"]}
    (found,) = jobs["usage-worker"]["dns_sd_configs"]
    assert found["names"] == ["worker"]
    assert str(found["port"]) in SERVICES["worker"]["expose"]
    assert found["port"] == Settings.model_fields["http_port"].default
    # what deploy/prometheus/queues.rules.yml needs, queue by queue
    assert {*jobs["rabbitmq-queues"]["params"]["family"]} == {"queue_coarse_metrics", "queue_consumer_count"}
    (rules,) = asked["rule_files"]
    mounted = f"./deploy/prometheus:{rules.rpartition('/')[0]}:ro"
    assert mounted in SERVICES["prometheus"]["volumes"]


def test_prometheus_takes_its_file() -> None:
    """Its own tool finds no mistake."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    command = [promtool, "check", "config", "--syntax-only", str(FOLDER / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    """Of a folder that is missing the engine would make an empty one, without a word."""
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in FILE["volumes"]
