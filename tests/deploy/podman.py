"""The chart in real containers: each pod that it would make, as one that podman plays, on one network.

Podman knows Deployments of one replica and no StatefulSets, so each replica becomes a pod of its own here, with the
template as it was rendered. Names of services are aliases in the network, so one name stands for several pods, as a
headless service's does. A pod keeps its address when it is started again.
"""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_ENVIRONMENT = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
_SHARED_KINDS = ("ConfigMap", "Secret")
_SUBNET = "10.231.7"


def podman(*arguments: str, check: bool = True) -> str:
    """Return what podman prints; with runc, because crun can't with every kernel's control groups."""
    done = subprocess.run(
        ["podman", "--runtime", "runc", *arguments], env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {(done.stderr + done.stdout)[-4000:]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class PlayedPod:
    """One replica: its name, its part of the chart, its file, where it is, its containers, and how long it may end."""

    name: str
    part: str
    path: Path
    ip: str
    aliases: tuple[str, ...]
    containers: tuple[str, ...]
    grace_s: int

    def start(self, network: str) -> None:
        """Create and start the pod."""
        names = "".join(f"alias={alias}," for alias in self.aliases)
        podman("kube", "play", "--network", f"{network}:{names}ip={self.ip}", str(self.path))

    def stop(self) -> None:
        """Stop the pod as Kubernetes does: its containers with SIGTERM and its grace period, and then its network.

        ``podman pod stop`` takes the network away first.
        """
        podman("stop", "--time", str(self.grace_s), *self.containers)
        podman("pod", "rm", "--force", self.name)

    def remove(self) -> None:
        """Remove the pod in whatever state it is, with the settings and secrets that pods share."""
        podman("pod", "rm", "--force", "--time", "0", self.name, check=False)
        podman("kube", "down", "--force", str(self.path), check=False)

    def logs(self) -> str:
        """Return the end of what its containers have printed."""
        return podman("pod", "logs", "--tail", "30", self.name, check=False)


def replicas_of(manifests: Sequence[dict[str, Any]], directory: Path) -> Iterator[PlayedPod]:
    """Yield a pod for each replica of a workload, and for a pod itself; each file has the settings and secrets too."""
    shared = [each for each in manifests if each["kind"] in _SHARED_KINDS]
    selectors = {
        each["metadata"]["name"]: each["spec"]["selector"].items() for each in manifests if each["kind"] == "Service"
    }
    number = 10
    for each in manifests:
        template = each if each["kind"] == "Pod" else each.get("spec", {}).get("template")
        if template is None or "containers" not in template.get("spec", {}):
            continue
        for index in range(each["spec"].get("replicas", 1)):
            pod = copy.deepcopy(template) | {"apiVersion": "v1", "kind": "Pod"}
            name = pod["metadata"]["name"] = f"{each['metadata']['name']}-{index}"
            _own_folders(pod["spec"], name)
            path = directory / f"{name}.yaml"
            path.write_text(yaml.safe_dump_all([*shared, pod]))
            labels = pod["metadata"]["labels"]
            part = labels["app.kubernetes.io/component"]
            number += 1
            yield PlayedPod(
                name,
                part,
                path,
                f"{_SUBNET}.{number}",
                tuple(service for service, wanted in selectors.items() if wanted <= labels.items()),
                tuple(f"{name}-{container['name']}" for container in pod["spec"]["containers"]),
                pod["spec"].get("terminationGracePeriodSeconds", 30),
            )


def _own_folders(spec: dict[str, Any], name: str) -> None:
    """Give a pod empty folders of its own: podman knows them by their names in the manifest, and pods would share."""
    own = {each["name"]: f"{name}-{each['name']}" for each in spec.get("volumes", ()) if "emptyDir" in each}
    mounts = (mount for container in spec["containers"] for mount in container.get("volumeMounts", ()))
    for each in (*spec.get("volumes", ()), *mounts):
        each["name"] = own.get(each["name"], each["name"])


def create_network(name: str) -> None:
    """Create a network whose addresses pods of ``replicas_of`` have."""
    podman("network", "create", "--subnet", f"{_SUBNET}.0/24", name)


def remove_network(name: str) -> None:
    """Remove a network, where there is one."""
    podman("network", "rm", "--force", name, check=False)
