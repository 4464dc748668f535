"""The chart renders what Kubernetes takes, and refuses what makes no sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.deploy.charts import VALUE_SETS, find, pods, render
from tools.kustomize import BASE, CHART, render_base, render_chart

KUBERNETES_VERSIONS = ("1.27", "1.31", "1.35")  # the oldest that the chart takes, and two since
OF_OPERATORS = {"Certificate", "PodMonitor", "PrometheusRule", "ScaledObject"}  # Kubernetes has no schema of these


@pytest.mark.parametrize("name", VALUE_SETS)
def test_helm_has_nothing_to_say(name: str) -> None:
    report = helm_python.lint(CHART, VALUE_SETS[name], strict=True)
    said = [each for each in report["messages"] if each["error"] != "icon is recommended"]
    assert (said, report["errors"]) == ([], [])


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", VALUE_SETS)
def test_kubernetes_knows_every_key(name: str, version: str) -> None:
    manifests = render(name)
    assert len(manifests) >= 8
    for each in manifests:
        if each["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_key_that_kubernetes_does_not_know_is_noticed() -> None:
    deployment = find(render("defaults"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(deployment, KUBERNETES_VERSIONS[0], strict=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"gateways": {"replicas": 3}}, "gateways"),
        ({"gateway": {"replicas": -1}}, "replicas"),
        ({"gateway": {"replicas": "two"}}, "replicas"),
        ({"gateway": {"image": {"digest": "sha256:12"}}}, "digest"),
        ({"gateway": {"image": {"repository": "registry:5000/a/b:tag"}}}, "repository"),
        ({"gateway": {"tls": {"kind": "secret"}}}, "secretName"),
        ({"gateway": {"tls": {"kind": "cert-manager"}}}, "issuerName"),
        ({"gateway": {"tokens": {"tenants": [{"name": "a", "tokens": ["a token itself"]}]}}}, "tokens"),
        ({"gateway": {"disruption": {"maxUnavailable": "half"}}}, "maxUnavailable"),
        ({"triton": {"kind": "Deployment"}}, "kind"),
        ({"triton": {"device": "tpu"}}, "device"),
        ({"triton": {"gpuLoadLimit": 1.5}}, "gpuLoadLimit"),
        ({"triton": {"sharedMemory": "much"}}, "sharedMemory"),
        ({"triton": {"autoscaling": {"kind": "keda"}}}, "prometheusAddress"),
        ({"triton": {"kind": "DaemonSet", "autoscaling": {"kind": "hpa"}}}, "StatefulSet"),
        ({"triton": {"autoscaling": {"kind": "hpa", "minReplicas": 5, "maxReplicas": 4}}}, "maxReplicas"),
        ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 8}}}, "maxReplicas"),
        ({"controller": {"gpu": "first"}}, "gpu"),
        ({"models": {"volume": {"name": "models", "emptyDir": {}}}}, "volume"),
        ({"fleet": {"gateway": {"grpc": "0.0.0.0:1"}}}, "gateway"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_their_key(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmError, match=named):
        render_chart(values)


def test_every_key_of_the_schema_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def missing(part: dict[str, Any], given: dict[str, Any], path: str) -> Iterator[str]:
        part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        for key, inner in part.get("properties", {}).items():
            if key not in given:
                yield f"{path}{key}"
            elif isinstance(given[key], dict):
                yield from missing(inner, given[key], f"{path}{key}.")

    assert set(missing(schema, defaults, "")) == {"global"}  # Helm's own


def test_a_change_of_one_part_starts_no_pod_of_the_other_again() -> None:
    def annotations(values: dict[str, Any]) -> dict[str, Any]:
        manifests = render_chart(values)
        return {part: pod["metadata"].get("annotations") for part, pod in pods(manifests)}

    before = annotations({})
    gateway, controller = (
        annotations({"gateway": {"lameDuckSeconds": 9}}),
        annotations({"controller": {"memoryBudgetMib": 9}}),
    )
    assert gateway["triton"] == before["triton"]
    assert gateway["gateway"] != before["gateway"]
    assert controller["triton"] != before["triton"]
    assert controller["gateway"] == before["gateway"]


def test_two_releases_in_one_namespace_share_nothing() -> None:
    first, second = (render_chart({}, release=name) for name in ("a", "b"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in manifests} for manifests in (first, second)]
    assert not names[0] & names[1]
    selected = [find(manifests, "Deployment")["spec"]["selector"]["matchLabels"] for manifests in (first, second)]
    assert selected[0] != selected[1]


@pytest.mark.parametrize("name", VALUE_SETS)
def test_nothing_runs_with_rights_or_writes_into_its_image(name: str) -> None:
    for _, pod in pods(render(name)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        for each in spec["containers"]:
            security = each["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_only_gateways_reach_tritons() -> None:
    [gateways, scrapers] = find(render("defaults"), "NetworkPolicy", "triton")["spec"]["ingress"]
    [source] = gateways["from"]
    assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert {each["port"] for each in scrapers["ports"]} == {8002, 9400}  # metrics, and no inferences


def test_a_given_secret_is_used_and_none_is_made() -> None:
    manifests = render("secured")
    assert [each["metadata"]["name"] for each in manifests if each["kind"] == "Secret"] == [
        "demo-slim-scheduler-tokens"
    ]
    volumes = find(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "protocol", "secret": {"secretName": "our-protocol"}} in volumes


def test_the_base_of_kustomize_is_what_the_chart_renders() -> None:
    files = {path.name: path.read_text() for path in BASE.glob("*.yaml")}
    assert files == render_base(), "run: python -m tools.kustomize"
