"""The chart renders what Kubernetes takes, and refuses what makes no sense."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.deploy.charts import VALUE_SETS, container, find, pods, render
from tools.kustomize import BASE, CHART, render_base, render_chart

KUBERNETES_VERSIONS = ("1.27", "1.31", "1.35")  # the oldest that the chart takes, and two since
OF_OPERATORS = {  # Kubernetes has no schema of these
    "Certificate",
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
    "ServiceMonitor",
}


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
        ({"gateway": {"tls": {"clientCa": True}}}, r"gateway\.tls\.kind none has no TLS"),
        (
            {
                "gateway": {
                    "tokens": {"existingSecret": "a", "tenants": [{"name": "a", "tokens": ["sha256:" + "0" * 64]}]}
                }
            },
            r"gateway\.tokens\.tenants would count for nothing",
        ),
        ({"gateway": {"disruption": {"maxUnavailable": "half"}}}, "maxUnavailable"),
        ({"gateway": {"disruption": {"maxUnavailable": -1}}}, "maxUnavailable"),
        ({"models": {"volume": {"hostPath": {"path": "/models"}, "emptyDir": {}}}}, "volume"),
        ({"triton": {"kind": "Deployment"}}, "kind"),
        ({"triton": {"device": "tpu"}}, "device"),
        ({"triton": {"gpuLoadLimit": 1.5}}, "gpuLoadLimit"),
        ({"triton": {"sharedMemory": "much"}}, "sharedMemory"),
        ({"triton": {"autoscaling": {"kind": "keda"}}}, "prometheusAddress"),
        ({"triton": {"kind": "DaemonSet", "autoscaling": {"kind": "hpa"}}}, "StatefulSet"),
        ({"triton": {"autoscaling": {"kind": "hpa", "minReplicas": 5, "maxReplicas": 4}}}, "maxReplicas"),
        ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 8}}}, "maxReplicas"),
        ({"controller": {"gpu": "first"}}, "gpu"),
        ({"triton": {"groups": [{"deviceClass": "h100"}]}}, "name"),
        ({"triton": {"groups": [{"name": "H100"}]}}, "name"),
        ({"triton": {"groups": [{"name": "a", "deviceClass": "two words"}]}}, "deviceClass"),
        ({"triton": {"groups": [{"name": "a", "replicas": -1}]}}, "replicas"),
        ({"triton": {"groups": [{"name": "a", "gpu": "first"}]}}, "gpu"),
        ({"triton": {"groups": [{"name": "a", "image": {}}]}}, "image"),
        ({"triton": {"groups": {"a": {}}}}, "groups"),
        ({"triton": {"groups": [{"name": "a"}, {"name": "a"}]}}, r"triton\.groups\[1\]\.name a is there twice"),
        ({"triton": {"groups": [{"name": "a" * 31}]}}, "name"),
        (
            {"triton": {"groups": [{"name": "a"}], "autoscaling": {"kind": "hpa"}}},
            r"triton\.autoscaling\.kind hpa scales one set",
        ),
        ({"models": {"volume": {"name": "models", "emptyDir": {}}}}, "volume"),
        ({"fleet": {"gateway": {"grpc": "0.0.0.0:1"}}}, "gateway"),
        ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "monitoring.podMonitor"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_their_key(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmError, match=named):
        render_chart(values)


def test_the_pod_that_tries_a_gateway_runs_where_gateways_may() -> None:
    places = {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "slim", "operator": "Exists"}]}
    manifests = render_chart({"gateway": places})
    for part in ("gateway", "test"):
        [spec] = [pod["spec"] for name, pod in pods(manifests) if name == part]
        assert {key: spec.get(key) for key in places} == places


UUID, OTHER = "GPU-1c9b2f00-0000-0000-0000-000000000000", "MIG-7f5e1a3c-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("triton", "gpu", "named"),
    [
        ({"replicas": 2}, UUID, f"controller.gpu {UUID} is one device, and each of the 2 replicas"),
        ({"replicas": 2}, OTHER, f"controller.gpu {OTHER} is one device"),
        ({"kind": "DaemonSet"}, UUID, "a DaemonSet, would watch it; leave it out where a node has one GPU"),
        ({"autoscaling": {"kind": "hpa"}}, UUID, "each of the 4 replicas"),
        ({"groups": [{"name": "a", "replicas": 3, "gpu": UUID}]}, "", f"triton.groups[0].gpu {UUID} is one device"),
        (
            {"groups": [{"name": "a"}, {"name": "b"}]},
            UUID,
            "watched by the controller of slim-scheduler-triton-a already",
        ),
        ({"groups": [{"name": "a", "gpu": OTHER}, {"name": "b", "gpu": OTHER}]}, "", f"triton.groups[1].gpu {OTHER}"),
    ],
)
def test_one_device_is_not_watched_by_the_controllers_of_several_pods(
    triton: dict[str, Any], gpu: str, named: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(named)):
        render_chart({"triton": triton, "controller": {"gpu": gpu}})


@pytest.mark.parametrize(
    ("triton", "gpu"),
    [
        ({"replicas": 1}, UUID),
        ({"replicas": 3}, "1"),
        ({"kind": "DaemonSet"}, "0"),
        ({"replicas": 3, "device": "cpu"}, UUID),
        ({"autoscaling": {"kind": "hpa", "maxReplicas": 1}}, UUID),
        ({"groups": [{"name": "a", "gpu": UUID}, {"name": "b", "gpu": OTHER}]}, ""),
    ],
)
def test_a_device_of_one_pod_and_an_index_on_each_node_are_taken(triton: dict[str, Any], gpu: str) -> None:
    assert render_chart({"triton": triton, "controller": {"gpu": gpu}})


def test_a_group_whose_pods_can_not_be_labelled_is_refused() -> None:
    groups = [{"name": "l4"}, {"name": "h1000"}]
    with pytest.raises(helm_python.HelmError, match=r"triton\.groups\[1\]\.name h1000 .* of 53 characters.*shorten it"):
        render_chart({"triton": {"groups": groups}}, release="a" * 25)


def test_a_group_may_have_no_replicas_and_tolerate_nothing() -> None:
    group = {"name": "a", "replicas": 0, "tolerations": []}
    own = find(render_chart({"triton": {"groups": [group], "tolerations": [{"operator": "Exists"}]}}), "StatefulSet")
    assert (own["spec"]["replicas"], own["spec"]["template"]["spec"].get("tolerations")) == (0, None)


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


def test_a_change_of_one_group_starts_no_pod_of_another_again() -> None:
    def templates(device_class: str) -> list[dict[str, Any]]:
        groups = [{"name": "a", "deviceClass": device_class}, {"name": "b"}]
        return [pod for part, pod in pods(render_chart({"triton": {"groups": groups}})) if part == "triton"]

    before, after = templates("l4"), templates("h100")
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)


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


LONG = "inference-for-the-vision-team-of-the-north"


@pytest.mark.parametrize("names", [("slim-scheduler-a", "a"), (f"{LONG}-1", f"{LONG}-2"), (LONG, f"{LONG}-2")])
def test_no_two_releases_have_one_name_however_long_they_are_called(names: tuple[str, str]) -> None:
    made = [{find(render_chart({}, release=name), "Deployment")["metadata"]["name"]} for name in names]
    assert not made[0] & made[1]


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("demo", "demo-slim-scheduler"),
        ("slim-scheduler", "slim-scheduler"),
        ("a" * 25, "a" * 25 + "-slim-scheduler"),
        ("a" * 26, "a" * 26 + "-slim-s-2e10cf"),
        ("slim-scheduler-" + "a" * 38, "slim-scheduler-" + "a" * 18 + "-838f97"),
    ],
)
def test_a_name_ends_in_its_hash_only_where_it_is_too_long(release: str, name: str) -> None:
    found = find(render_chart({}, release=release), "Deployment")["metadata"]["name"]
    assert (found, len(name) <= 40) == (f"{name}-gateway", True)


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


@pytest.mark.parametrize("word", ["2024", "on"])
def test_names_that_yaml_reads_as_something_else_stay_names(word: str) -> None:
    values = {
        "imagePullSecrets": [word],
        "triton": {
            "autoscaling": {"kind": "hpa"},
            "priorityClassName": word,
            "restrictedProtocol": {"existingSecret": word},
            "runtimeClassName": word,
        },
        "models": {"subPath": word},
        "gateway": {
            "priorityClassName": word,
            "tls": {"kind": "secret", "secretName": word},
            "tokens": {"existingSecret": word},
        },
    }
    for each in render_chart(values, release=word, namespace=word):
        kubernetes_validate.validate(each, KUBERNETES_VERSIONS[-1], strict=True)


def test_every_pod_may_pull_its_images() -> None:
    found = {part: pod["spec"].get("imagePullSecrets") for part, pod in pods(render_chart({"imagePullSecrets": ["a"]}))}
    assert found == {part: [{"name": "a"}] for part in ("triton", "gateway", "test")}


def test_a_certificate_may_be_for_all_names_of_a_domain() -> None:
    tls = {"kind": "cert-manager", "issuerName": "2024", "dnsNames": ["*.example.org"]}
    spec = find(render_chart({"gateway": {"tls": tls}}), "Certificate")["spec"]
    assert (spec["issuerRef"]["name"], spec["dnsNames"][-1]) == ("2024", "*.example.org")


def test_the_models_folder_may_have_any_name() -> None:
    [mount, _, _] = container(render_chart({"models": {"subPath": "all, 2024: new"}}), "triton")["volumeMounts"]
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True, "subPath": "all, 2024: new"}


def test_each_of_several_gpus_has_the_limit_of_memory() -> None:
    flags = container(render_chart({"triton": {"gpus": 2, "gpuLoadLimit": 0.8}}), "triton")["args"]
    limits = [each for each in flags if each.startswith("--model-load-gpu-limit")]
    assert limits == ["--model-load-gpu-limit=0:0.8", "--model-load-gpu-limit=1:0.8"]


def test_only_gateways_reach_tritons() -> None:
    [gateways, scrapers] = find(render("defaults"), "NetworkPolicy", "triton")["spec"]["ingress"]
    [source] = gateways["from"]
    assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert {each["port"] for each in scrapers["ports"]} == {8002, 9400}  # metrics, and no inferences


def test_the_models_are_on_the_given_volume_alone_and_else_on_a_claim() -> None:
    for values, source in (
        ({}, {"persistentVolumeClaim": {"claimName": "slim-scheduler-models"}}),
        ({"models": {"volume": {"hostPath": {"path": "/models"}}}}, {"hostPath": {"path": "/models"}}),
    ):
        volumes = find(render_chart(values), "StatefulSet")["spec"]["template"]["spec"]["volumes"]
        assert volumes[0] == {"name": "models", **source}


def test_a_drain_leaves_a_daemonset_alone_so_it_has_no_budget() -> None:
    budgets = {
        kind: [
            each["metadata"]["labels"]["app.kubernetes.io/component"]
            for each in render_chart({"triton": {"kind": kind}})
            if each["kind"] == "PodDisruptionBudget"
        ]
        for kind in ("StatefulSet", "DaemonSet")
    }
    assert budgets == {"StatefulSet": ["triton", "gateway"], "DaemonSet": ["gateway"]}


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
