"""The manifests of deploy/kubernetes as `kubectl apply -k` sees them, without kubectl.

Of kustomize it knows what these manifests use, and refuses the rest: resources, a namespace, and tags of images.
`python -m manifests` writes the one that is made from other files: the alerts.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
EXAMPLES = KUBERNETES / "secrets.example.yaml"
ALERTS = KUBERNETES / "alerts.yaml"
RULES = ROOT / "deploy" / "prometheus"
Manifest = dict[str, Any]

_ALERTS_HEAD = """\
# Made from the rules of deploy/prometheus, and their comments, by `make kubernetes-alerts`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: usage-worker
  labels:
    app.kubernetes.io/name: usage-worker
spec:
  groups:
"""
_KNOWN = {"apiVersion", "kind", "resources", "namespace", "images"}
_WITHOUT_NAMESPACE = {"Namespace"}


def read(path: Path) -> list[Manifest]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def resolve(folder: Path = KUBERNETES) -> list[Manifest]:
    """What a kustomization puts into the cluster.

    Raises:
        ValueError: it uses something that is not known here.
    """
    (kustomization,) = read(folder / "kustomization.yaml")
    if unknown := kustomization.keys() - _KNOWN:
        raise ValueError(
            f"{folder}/kustomization.yaml: {sorted(unknown)} is not known to tests/manifests.py; add it there"
        )
    found = [manifest for path in _resources(folder, kustomization) for manifest in path]
    for manifest in found:
        if "namespace" in kustomization and manifest["kind"] not in _WITHOUT_NAMESPACE:
            manifest["metadata"]["namespace"] = kustomization["namespace"]
        for image in kustomization.get("images", []):
            _tag(manifest, image)
    return found


def alerts() -> str:
    """The rules of deploy/prometheus as the Prometheus Operator reads them: each file's groups, set in by two.

    Raises:
        ValueError: a file holds more than groups.
    """
    parts = [_ALERTS_HEAD]
    for path in sorted(RULES.glob("*.rules.yml")):
        _, begin, groups = path.read_text(encoding="utf-8").partition("groups:\n")
        if not begin or {*read(path)[0]} != {"groups"}:
            raise ValueError(f"{path} must hold `groups:` alone, on a line of its own")
        parts.append(textwrap.indent(groups, "  "))
    return "".join(parts)


def pod_of(manifest: Manifest) -> Manifest | None:
    """The template of the pods that a manifest makes, where it makes some."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template") if isinstance(spec.get("template"), dict) else None


def one(kind: str, name: str, manifests: list[Manifest]) -> Manifest:
    """The manifest of this kind whose name begins so."""
    (found,) = (
        manifest for manifest in manifests if manifest["kind"] == kind and manifest["metadata"]["name"].startswith(name)
    )
    return found


def variables(container: Manifest) -> dict[str, str]:
    """A container's environment."""
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def _resources(folder: Path, kustomization: Manifest) -> Iterator[list[Manifest]]:
    for name in kustomization["resources"]:
        path = folder / name
        yield resolve(path) if path.is_dir() else read(path)


def _tag(manifest: Manifest, image: Manifest) -> None:
    for container in ((pod_of(manifest) or {}).get("spec", {})).get("containers", []):
        if container["image"] == image["name"]:
            container["image"] = f"{image['name']}:{image['newTag']}"


if __name__ == "__main__":
    ALERTS.write_text(alerts(), encoding="utf-8")
