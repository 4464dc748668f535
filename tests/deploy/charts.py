"""The chart as tests see it: value sets, what they render, and parts of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tools.kustomize import CHART, render_chart

Manifest = dict[str, Any]

VALUE_SETS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "ci").glob("*.yaml"))}
RELEASE = "demo"


def render(name: str) -> list[Manifest]:
    """Return what a value set of the chart renders."""
    return render_chart(VALUE_SETS[name], release=RELEASE)


def find(manifests: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """Return the one manifest of a kind whose name ends so."""
    [found] = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the part and the pod template (or pod) of all that runs."""
    for each in manifests:
        template = each if each["kind"] == "Pod" else each.get("spec", {}).get("template", {})
        if "containers" in template.get("spec", {}):
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def containers(manifests: list[Manifest], name: str) -> list[Manifest]:
    """Return the containers of a name; of Tritons and controllers there is one for each group."""
    return [each for _, pod in pods(manifests) for each in pod["spec"]["containers"] if each["name"] == name]


def container(manifests: list[Manifest], name: str) -> Manifest:
    """Return the one container of a name."""
    [found] = containers(manifests, name)
    return found


def is_selected(labels: dict[str, str], selector: dict[str, str]) -> bool:
    """Return whether a selector chooses what has these labels."""
    return selector.items() <= labels.items()
