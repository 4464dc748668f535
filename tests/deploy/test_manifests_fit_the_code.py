"""Every flag, setting, port, path and metric in the manifests is one of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import FleetSettings, parse_fleet
from orchestrator.config.names import expand_servers, name_in_file
from orchestrator.config.tenants import parse_tenants
from orchestrator.embedded.flags import ServerFlags, render_flags
from tests.deploy.charts import VALUE_SETS, container, containers, find, is_selected, pods, render
from tools.kustomize import render_chart

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RESTRICTED = "model-repository,model-config,statistics,shared-memory,trace,logging:$(SLIM_PROTOCOL_PAIR)"


def fleets_of(manifests: list[dict[str, Any]], part: str) -> dict[str, FleetSettings]:
    """Return the fleet files of gateways, or of each group's controllers, by the names of their ConfigMaps."""
    return {
        each["metadata"]["name"]: parse_fleet(each["data"]["fleet.yaml"])
        for each in manifests
        if each["kind"] == "ConfigMap" and re.search(rf"-{part}(-|$)", each["metadata"]["name"])
    }


def fleet_of(manifests: list[dict[str, Any]], part: str) -> FleetSettings:
    [found] = fleets_of(manifests, part).values()
    return found


def port_of(address: object) -> int:
    return int(re.findall(r"\d+", str(address).removesuffix("/metrics"))[-1])


@pytest.mark.parametrize("name", VALUE_SETS)
def test_tritons_flags_are_those_of_the_embedded_server(name: str) -> None:
    manifests = render(name)
    seconds = next(pod["spec"]["terminationGracePeriodSeconds"] for part, pod in pods(manifests) if part == "triton")
    servers = fleet_of(manifests, "gateway").servers
    for server, triton in zip(servers, containers(manifests, "triton"), strict=True):
        check_flags(triton, exit_timeout_s=seconds - 10, gpu=server.device == "gpu")


def check_flags(triton: dict[str, Any], *, exit_timeout_s: int, gpu: bool) -> None:
    flags = ServerFlags(
        repository="/models",
        grpc_port=8001,
        http_port=8000,
        metrics_port=8002,
        address="0.0.0.0",
        exit_timeout_s=exit_timeout_s,
        gpu_load_limits=((0, 0.9),) if gpu else (),
    )
    arguments = triton["args"]
    own = render_flags(flags)
    assert tuple(arguments[: len(own)]) == own
    more = [f"--{protocol}={RESTRICTED}" for protocol in ("grpc-restricted-protocol", "http-restricted-api")]
    is_restricted = "SLIM_PROTOCOL_PAIR" in {each["name"] for each in triton.get("env", ())}
    others = [each for each in arguments[len(own) :] if each not in ("--log-verbose=1", "--id=triton-$(NODE_NAME)")]
    assert others == (more if is_restricted else [])
    assert {each["name"]: each["containerPort"] for each in triton["ports"]} == {
        "http": flags.http_port,
        "grpc": flags.grpc_port,
        "metrics": flags.metrics_port,
    }


@pytest.mark.parametrize("name", VALUE_SETS)
def test_commands_have_the_options_that_they_are_given(name: str) -> None:
    for _, pod in pods(render(name)):
        for each in pod["spec"]["containers"]:
            if each["name"] not in ("gateway", "controller"):
                continue
            command, *arguments = each["args"]
            assert command == each["name"]
            shown = CliRunner().invoke(main, [command, "--help"]).output
            assert all(argument in shown for argument in arguments if argument.startswith("--"))
            mounts = [mount["mountPath"] for mount in each["volumeMounts"]]
            [path] = [argument for argument in arguments if argument.endswith("/fleet.yaml")]
            assert str(Path(path).parent) in mounts


@pytest.mark.parametrize("name", VALUE_SETS)
def test_the_settings_can_be_read_and_name_only_files_that_are_mounted(name: str) -> None:
    manifests = render(name)
    for part in ("gateway", "controller"):
        fleets, owns = fleets_of(manifests, part), containers(manifests, part)
        if part == "controller" and not VALUE_SETS[name].get("controller", {}).get("enabled", True):
            assert (fleets, owns) == ({}, [])
            continue
        for settings, own in zip(fleets.values(), owns, strict=True):
            mounts = {Path(mount["mountPath"]) for mount in own["volumeMounts"]}
            for path in named_files(settings, part):
                assert {path, path.parent} & mounts, path


def named_files(settings: FleetSettings, part: str) -> list[Path]:
    named = [each.protocol_key_file for each in settings.servers]
    if part == "controller":
        [server] = settings.servers
        named.append(server.repository)
    if tls := settings.gateway.tls:
        named += [tls.certificate, tls.key, tls.client_ca]
    if auth := settings.gateway.auth:
        named.append(auth.tokens_file)
    if log := settings.router.decision_log:
        named.append(log.directory)
    return [path for path in named if path is not None]


@pytest.mark.parametrize("name", VALUE_SETS)
def test_ports_of_settings_containers_and_services_agree(name: str) -> None:
    manifests = render(name)
    settings = fleet_of(manifests, "gateway")
    gateway = settings.gateway
    declared = {each["name"]: each["containerPort"] for each in container(manifests, "gateway")["ports"]}
    assert gateway.peers is not None
    assert declared == {
        "grpc": port_of(gateway.grpc),
        "http": port_of(gateway.http),
        "metrics": port_of(gateway.metrics),
        "peers": port_of(gateway.peers.listen),
    }
    [peers] = [each for each in manifests if each["metadata"]["name"].endswith("-peers")]
    assert list(gateway.peers.addresses) == [f"{peers['metadata']['name']}:{declared['peers']}"]
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["spec"]["publishNotReadyAddresses"], "one that starts takes servers before it is ready"
    for server in settings.servers:
        service = find(manifests, "Service", server.grpc.partition(":")[0])
        assert service["spec"]["clusterIP"] == "None"  # gateways resolve each Triton
        wanted = {"grpc": port_of(server.grpc), "metrics": port_of(server.metrics)}
        if server.controller is not None:
            wanted["controller"] = port_of(server.controller)
            for controller in containers(manifests, "controller"):
                [port] = controller["ports"]
                assert port["containerPort"] == wanted["controller"]
        assert {each["name"]: each["port"] for each in service["spec"]["ports"]} == wanted
    for each in (each for each in manifests if each["kind"] == "Service"):
        names = {
            port["name"]
            for _, pod in pods(manifests)
            if is_selected(pod["metadata"]["labels"], each["spec"]["selector"])
            for box in pod["spec"]["containers"]
            for port in box.get("ports", ())
        }
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= names


@pytest.mark.parametrize("name", VALUE_SETS)
def test_a_pod_has_longer_than_its_gateway_takes_to_stop(name: str) -> None:
    manifests = render(name)
    gateway = fleet_of(manifests, "gateway").gateway
    [pod] = [pod for part, pod in pods(manifests) if part == "gateway"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > gateway.lame_duck_s + gateway.drain_s


def test_variables_of_a_controller_are_those_of_its_options() -> None:
    shown = CliRunner().invoke(main, ["controller", "--help"]).output
    boxes = [box for name in ("cpu", "unlike") for box in containers(render(name), "controller")]
    ours = {each["name"] for box in boxes for each in box["env"] if not each["name"].startswith("NVIDIA_")}
    assert ours >= {"SLIMSCHED_SERVER_NAME", "SLIMSCHED_MEMORY_LIMIT_BYTES", "SLIMSCHED_GPU"}
    assert all(name in shown for name in ours)


@pytest.mark.parametrize("groups", [[], [{"name": "big"}]])
@pytest.mark.parametrize(("kind", "host_name"), [("StatefulSet", "triton-0"), ("DaemonSet", "10-0-0-7")])
def test_a_controller_is_called_as_gateways_call_its_triton_by_the_dns_or_its_node(
    kind: str, host_name: str, groups: list[dict[str, Any]]
) -> None:
    manifests = render_chart({"triton": {"kind": kind, "groups": groups}}, release="demo")
    own = fleet_of(manifests, "gateway").servers
    host = own[0].grpc.partition(":")[0]
    dns = {"10.0.0.7": f"{host_name}.{host}.inference.svc.cluster.local", "10.0.0.8": ""}
    fields = {"metadata.name": "triton-0", "spec.nodeName": "gpu-7.example.org"}

    def filled_in(box: str, text: str) -> str:
        """Return a value with what Kubernetes fills in from the pod."""
        for each in container(manifests, box)["env"]:
            if "fieldRef" in each.get("valueFrom", {}):
                text = text.replace(f"$({each['name']})", fields[each["valueFrom"]["fieldRef"]["fieldPath"]])
        return text

    [box] = containers(manifests, "triton")
    said = [filled_in("triton", each.partition("=")[2]) for each in box["args"] if each.startswith("--id=")]
    identifiers = {(own[0].name, "10.0.0.7"): said[0]} if said else {}
    (server, other), _ = expand_servers(own, {host: dns}, {}, dns, identifiers)
    [told] = [each for each in container(manifests, "controller")["env"] if each["name"] == "SLIMSCHED_SERVER_NAME"]
    assert filled_in("controller", told.get("value", "$(SLIMSCHED_SERVER_NAME)")) == server.name
    assert name_in_file(server.name, own) == own[0].name
    assert ("gpu-7.example.org" in server.name) == (kind == "DaemonSet")
    assert other.name == f"{own[0].name}-10.0.0.8"


@pytest.mark.parametrize("name", VALUE_SETS)
def test_each_set_of_tritons_has_its_service_its_entry_in_fleet_yaml_and_its_controllers_file(name: str) -> None:
    manifests = render(name)
    sets = {each["metadata"]["name"]: each for each in manifests if each["kind"] in ("StatefulSet", "DaemonSet")}
    servers = {each.grpc.partition(":")[0]: each for each in fleet_of(manifests, "gateway").servers}
    assert sets.keys() == servers.keys()
    selectors = [find(manifests, "Service", host)["spec"]["selector"] for host in sets]
    for (host, own), selector in zip(sets.items(), selectors, strict=True):
        assert own["spec"]["selector"]["matchLabels"] == selector
        assert own["spec"].get("serviceName", host) == host
        template = own["spec"]["template"]
        assert [is_selected(template["metadata"]["labels"], each) for each in selectors].count(True) == 1
        files = [each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each]
        for file in files:
            [beside] = fleets_of(manifests, "controller")[file].servers
            assert beside.model_copy(update={"repository": None}) == servers[host]


@pytest.mark.parametrize("name", VALUE_SETS)
def test_policy_and_disruption_budget_are_of_all_tritons_and_the_monitor_of_all_pods(name: str) -> None:
    manifests = render(name)
    keys = {"NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector", "PodMonitor": "selector"}
    for each in (each for each in manifests if each["kind"] in keys):
        selector = each["spec"][keys[each["kind"]]]["matchLabels"]
        chosen = [part for part, pod in pods(manifests) if is_selected(pod["metadata"]["labels"], selector)]
        part = each["metadata"]["name"].rpartition("-")[2]
        wanted = ("triton", "gateway", "test") if each["kind"] == "PodMonitor" else (part,)
        assert chosen == [part for part, _ in pods(manifests) if part in wanted]


@pytest.mark.parametrize("groups", [[], [{"name": "a"}, {"name": "b"}]])
def test_a_service_monitor_reads_each_pod_once_and_from_where_a_pod_monitor_does(groups: list[dict[str, Any]]) -> None:
    by_service, by_pod = (
        render_chart({"monitoring": {kind: True}, "triton": {"groups": groups}})
        for kind in ("serviceMonitor", "podMonitor")
    )
    spec = find(by_service, "ServiceMonitor")["spec"]
    assert spec["endpoints"] == find(by_pod, "PodMonitor")["spec"]["podMetricsEndpoints"]
    services = [
        each
        for each in by_service
        if each["kind"] == "Service" and is_selected(each["metadata"]["labels"], spec["selector"]["matchLabels"])
    ]
    for part, pod in pods(by_service):
        ports = {port["name"] for box in pod["spec"]["containers"] for port in box.get("ports", ())}
        for port in ports & {endpoint["port"] for endpoint in spec["endpoints"]}:
            offering = [
                each["metadata"]["name"]
                for each in services
                if is_selected(pod["metadata"]["labels"], each["spec"]["selector"])
                and port in {each["name"] for each in each["spec"]["ports"]}
            ]
            assert len(offering) == 1, (part, port)
    assert not [each for each in by_pod if each["metadata"]["name"].endswith("-metrics")]


def test_groups_are_told_apart_by_device_class_node_and_gpu() -> None:
    manifests = render("unlike")
    servers = fleet_of(manifests, "gateway").servers
    assert [(server.name, server.device_class) for server in servers] == [
        ("triton-h100", "h100"),
        ("triton-slice", "a100-1g.5gb"),
    ]
    assert [name_in_file(f"{server.grpc.partition(':')[0]}-1", servers) for server in servers] == [
        server.name for server in servers
    ]
    specs = [pod["spec"] for part, pod in pods(manifests) if part == "triton"]
    assert [spec["nodeSelector"] for spec in specs] == [
        {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        {"nvidia.com/gpu.present": "true", "kubernetes.io/hostname": "a100-0"},
    ]
    assert [[each["key"] for each in spec["tolerations"]] for spec in specs] == [
        ["nvidia.com/gpu"],
        ["example.org/divided"],
    ]
    limits = [box["resources"]["limits"] for box in containers(manifests, "triton")]
    assert limits == [{"memory": "32Gi", "nvidia.com/gpu": 1}, {"memory": "8Gi", "nvidia.com/mig-1g.5gb": 1}]
    gpus = [
        [each["value"] for each in box["env"] if each["name"] == "SLIMSCHED_GPU"]
        for box in containers(manifests, "controller")
    ]
    assert gpus == [[], ["MIG-7f5e1a3c-0000-0000-0000-000000000000"]]


def test_tenants_of_the_values_are_a_tokens_file() -> None:
    secret = find(render("secured"), "Secret", "tokens")
    [tenant] = parse_tenants(secret["stringData"]["tokens.yaml"])
    assert (tenant.name, tenant.models) == ("vision", ("fashion",))


def test_every_metric_that_is_named_is_one_of_the_code() -> None:
    stems = set[str]()
    for path in (ROOT / "orchestrator").rglob("*.py"):
        stems.update(re.findall(r'"(slim_(?:gateway|router|controller|background)_[a-z_]+)"', path.read_text()))
    known = {stem + suffix for stem in stems for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    named = {
        (path.name, metric)
        for path in DEPLOY.rglob("*")
        if path.is_file()
        for metric in re.findall(r"\bslim_(?:gateway|router|controller|background)_[a-z_]+", path.read_text())
    }
    assert len(named) >= 4
    assert {metric for _, metric in named} <= known, named


def test_probes_ask_what_is_answered() -> None:
    """Paths are those that the programs' own sources name."""
    sources = {"gateway": "orchestrator/gateway/admin.py", "controller": "orchestrator/controller/status/endpoint.py"}
    asked = set[str]()
    manifests = render("defaults")
    for name, source in sources.items():
        text = (ROOT / source).read_text()
        for key, probe in container(manifests, name).items():
            if key.endswith("Probe"):
                assert f'"{probe["httpGet"]["path"]}"' in text
                asked.add(f"{name} {probe['httpGet']['path']}")
    assert asked >= {"gateway /livez", "gateway /readyz"}


def test_images_and_chart_have_the_version_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [version] = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    chart = yaml.safe_load((DEPLOY / "helm/slim-scheduler/Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {version}
    dockerfile = (DEPLOY / "images/Dockerfile").read_text()
    assert set(re.findall(r"ARG VERSION=(.+)", dockerfile)) == {version}
