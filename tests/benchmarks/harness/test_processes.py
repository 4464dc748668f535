"""What is read of processes, and what is run before Tritons."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.harness.processes import Reading, read_cpu, read_held
from benchmarks.harness.programs import find_program, render_envoy
from orchestrator.errors import ConfigError


def test_processor_time_is_read_with_the_childrens() -> None:
    burn = (
        "import time, sys; end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\n"
        "print(flush=True); sys.stdin.read()"
    )
    shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, burn]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reading = read_cpu({"tree": process.pid, "gone": 2**22 + 1, "me": os.getpid()})
        process.communicate()
    assert reading.cpu_s["tree"] >= 0.19
    assert reading.cpu_s["gone"] == 0
    assert reading.cpu_s["me"] >= reading.cpu_s["tree"]


def test_shares_are_of_one_core() -> None:
    shares = Reading(1.0, {"a": 5.0}).shares_until(Reading(3.0, {"a": 8.0}))
    assert shares == {"a": pytest.approx(1.5)}


def test_envoy_spreads_over_all_servers() -> None:
    config = render_envoy(1, [("127.0.0.1", 2), ("127.0.0.1", 3)])["static_resources"]
    (cluster,) = config["clusters"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2


def test_what_a_process_holds_grows_with_what_it_opens() -> None:
    before = read_held(os.getpid())
    with open(os.devnull), open(os.devnull):
        during = read_held(os.getpid())
    assert during.descriptors == before.descriptors + 2
    assert 0 < during.anonymous_bytes < during.rss_bytes


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no such-program beside"):
        find_program("such-program")
