"""What docs/deploy.md shows, as far as it can be had without a cluster, a registry and a container engine.

Commands that ask for these are held against what they name: docker's and make's for the images, helm's for the chart.
``make containers`` runs the images, and ``helm test``'s pod in one of them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.config import GatewaySettings
from tests.deploy.charts import find, render
from tests.tutorials.document import Command, parse
from tools.kustomize import BASE, CHART, PROTOCOL_SECRET, render_base, render_chart

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
COMMANDS = [step.line.partition(" #")[0].strip() for step in parse(PAGE) if isinstance(step, Command)]
TARGETS = ("gateway", "controller", "embedded")


def yaml_block(name: str) -> str:
    [found] = re.findall(rf"^```yaml\n# {re.escape(name)}\b.*?\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return str(found)


def of(program: str) -> list[list[str]]:
    return [shlex.split(line) for line in COMMANDS if line.startswith(f"{program} ")]


def built(*make: str) -> list[str]:
    """Return the words of what a make target would run for each image."""
    done = subprocess.run(["make", "--dry-run", *make], cwd=ROOT, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout.replace("\\\n", " "))


def test_all_commands_of_the_page_are_looked_at() -> None:
    assert len(COMMANDS) == sum(map(len, (of("make"), of("docker"), of("helm")))) == 7


@pytest.mark.parametrize("command", of("make"), ids=lambda words: words[-1][:13])
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_make_builds_each_image_with_what_was_given(command: list[str], engine: str) -> None:
    words = built(*command[1:], f"ENGINE={engine}")
    given = [word for option in command[2:] for word in shlex.split(option.partition("=")[2])]
    assert words[words.index("build") - 1] == engine
    assert words[words.index("build") + 1 :][: len(given)] == given
    assert words[words.index("in") + 1 :][:3] == [*TARGETS[:2], "embedded;"]
    dockerfile = Path(ROOT, words[words.index("--file") + 1]).read_text()
    assert all(re.search(rf"^FROM .* AS {target}$", dockerfile, flags=re.M | re.I) for target in TARGETS)
    arguments = {word.partition("=")[0] for word in given if not word.startswith("--")}
    assert arguments <= set(re.findall(r"^ARG (\w+)", dockerfile, flags=re.M))


def test_what_is_pushed_was_built_and_is_what_chart_and_overlay_pull() -> None:
    _, tag, push = of("docker")
    made = built("images")[built("images").index("--tag") + 1]
    assert tag[2] == made.replace("$target", "gateway")
    assert tag[3] == push[2]
    repository, version = push[2].rsplit(":", 1)
    values = yaml.safe_load(yaml_block("values.yaml"))
    pulled = {image["repository"] for image in (values[part]["image"] for part in ("gateway", "controller", "tests"))}
    assert pulled == {repository, repository.replace("gateway", "controller")}
    rendered = yaml.safe_dump_all(render_chart(values))
    assert all(f"image: {each}:{version}\n" in rendered for each in pulled)
    overlay = yaml.safe_load(yaml_block("kustomization.yaml"))
    assert {image["newName"] for image in overlay["images"]} == pulled
    base = "".join(render_base().values())
    assert all(f"image: {image['name']}:" in base for image in overlay["images"])


def test_the_container_that_is_run_was_built_and_its_ports_are_the_gateways() -> None:
    words, *_ = of("docker")
    tag = built("images")[built("images").index("--tag") + 1]
    assert words[-1] == tag.replace("$target", "embedded")
    first, last = re.fullmatch(r"127\.0\.0\.1:(\d+)-(\d+):\1-\2", words[words.index("-p") + 1]).groups()  # type: ignore[union-attr]
    settings = GatewaySettings()
    ports = [int(str(address).rpartition(":")[2]) for address in (settings.http, settings.grpc, settings.metrics)]
    assert ports == list(range(int(first), int(last) + 1))


def test_the_values_of_the_page_make_what_it_says_they_do() -> None:
    install, test = of("helm")
    assert (ROOT / install[3]).samefile(CHART)
    assert install[2] == test[2]
    manifests = render_chart(yaml.safe_load(yaml_block("values.yaml")), release=install[2])
    assert find(manifests, "StatefulSet")["spec"]["replicas"] == 2
    assert find(manifests, "Certificate")["spec"]["issuerRef"]["name"] == "internal"
    assert {"PodMonitor", "PrometheusRule"} <= {each["kind"] for each in manifests}
    rendered = yaml.safe_dump_all(manifests)
    assert all(name in rendered for name in ("claimName: models", "secretName: gateway-tokens", "team: vision"))
    [tested] = [each for each in manifests if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    assert tested["kind"] == "Pod"


def test_the_groups_of_the_page_are_those_that_are_tested() -> None:
    manifests = render_chart(yaml.safe_load(yaml_block("unlike.yaml")), release="demo")
    tested = render("unlike")
    names = [
        [each["metadata"]["name"] for each in both if each["kind"] == "StatefulSet"] for both in (manifests, tested)
    ]
    assert names == [["demo-slim-scheduler-triton-h100", "demo-slim-scheduler-triton-slice"]] * 2


def test_the_overlay_of_the_page_stands_on_the_base_and_makes_the_secret_that_it_lacks() -> None:
    overlay = yaml.safe_load(yaml_block("kustomization.yaml"))
    [base] = overlay["resources"]
    assert base.endswith(str(BASE.relative_to(ROOT)))
    [secret] = overlay["secretGenerator"]
    assert secret["name"] == PROTOCOL_SECRET
    mounted = yaml.safe_dump_all(map(yaml.safe_load, render_base().values()))
    assert f"secretName: {PROTOCOL_SECRET}" in mounted or f"name: {PROTOCOL_SECRET}" in mounted
    assert secret["envs"] == ["pair.env"], "a file would end the pair with the end of its line"
    assert "key: pair\n" in mounted
    assert "one line pair=KEY=VALUE;" in yaml_block("kustomization.yaml")
    assert overlay["generatorOptions"] == {"disableNameSuffixHash": True}  # the base names it as it is
