"""The commands of all pages are run, as they stand there or with less to do, so that what is copied from there works.

Pages that are walked through from top to bottom have tests of their own (``PAGES_ELSEWHERE``). The others show single
commands, the same ones again and again; each of them is run once, in the simulator or over one fleet, in an order that
makes sense. What would take minutes gets ``LESS`` to do, by options behind its own. What is run nowhere is named in
``NOT_RUN`` with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.config import RouterSettings, load_fleet, render_fleet
from orchestrator.config.fleet import DecisionLogSettings
from orchestrator.router.dispatch.decision_log import is_shed, read_all
from tests.docs.test_commands import PAGES
from tests.ports import choose_free_ports
from tests.tutorials.document import execute

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(console|bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PAGES_ELSEWHERE = {
    "docs/deploy.md": "tests/deploy/test_page.py",
    "docs/operate.md": "tests/tutorials/test_pages.py",
    "docs/start.md": "tests/tutorials/test_pages.py",
    "docs/tutorials/already-served.md": "tests/gateway/test_real_already_served.py",
    "docs/tutorials/import.md": "tests/export/importing/test_tutorial.py",
    "docs/tutorials/large-images.md": "tests/tutorials/test_pages_with_up.py",
    "docs/tutorials/own-network.md": "tests/tutorials/test_own_network.py",
    "docs/tutorials/own-policy.md": "tests/tutorials/test_pages.py",
    "docs/tutorials/own-router.md": "tests/tutorials/test_pages.py",
    "docs/tutorials/plug-ins.md": "tests/tutorials/test_pages.py",
    "docs/tutorials/reading-an-evaluation.md": "tests/tutorials/test_pages.py",
    "docs/tutorials/several-families.md": "tests/tutorials/test_pages_with_up.py",
}
"""Pages, and the tests that run the console blocks that stand there in their order."""

ELSEWHERE = {
    r"curl .*(localhost|https:)|gzip|openssl": "tests/gateway/test_real_documented.py, test_real_secured.py",
    r"perf_analyzer ": "tests/gateway/test_real_perf_analyzer.py",
    r"slimsched train .*--data cifar10|slimsched export runs/cifar10": "tests/tutorials/test_own_network.py",
    r"slimsched (train-router|refit) ": "tests/tutorials/test_pages.py, for seconds",
    r"slimsched bench .*--family ": "tests/tutorials/test_pages_with_up.py, which has several families",
    r"slimsched top ": "tests/top, on a terminal",
    r"make demo$|slimsched demo\b": "tests/cli/test_real_commands.py, for seconds",
    r"slimsched evaluate( --suite mine --scenarios my-scenarios.*)?$": "tests/cli/test_evaluate.py, for seconds",
    r"slimsched bench compare (?!.*--rounds)": "here, with --rounds",
    r"slimsched profile .*--control": "tests/cli/test_real_profile.py",
    r"slimsched (local up (?!.*--cpus)|up(?! --servers))": "here, with more options; tests/cli/test_real_up.py",
}
"""Commands, and where the like is run, beside the test of the page that they stand on."""

NOT_RUN = {
    r"make test$": "runs this test",
    r"python3 -m venv|source \.venv/bin/activate|pip install ": "the environment of this test",
    r"dask |slimsched evaluate .*--dask ": "a cluster's; tests/executors has one of one machine",
    r"slimsched compile |SLIMSCHED_COMPILED_DIR=": "compiles for a minute; tests/router/dispatch/test_compilation.py",
    r"slimsched controller .*--sidecar": "a pod's; tests/controller/test_sidecar.py",
}
"""Commands that are not run, and why."""
MOST_NOT_RUN = 11

STAGES = (
    r"eval |slimsched (token|config schema)",
    r"slimsched local up",
    r"slimsched (local status|config|infer)",
    r"slimsched profile .*--plot",
    r"slimsched profile",
    r"slimsched gateway .*fleet.yaml$",
    r"slimsched gateway .*--replace",
    r"slimsched bench",
    r"slimsched controller .*--dry-run",
    r"slimsched controller",
    r"slimsched (status|demand|why|report)",
    r"slimsched local down",
    r"slimsched up",
)
"""Commands that need a fleet or nothing, in an order that makes sense."""
SIMULATED = r"slimsched (simulate|bounds|evaluate|tune) "

ENDLESS = {"up": "Ctrl-C ends all of it", "gateway": "metrics on", "controller": " runs, on "}
"""Commands that go on until they are ended, and what they say once they have begun."""

LESS = {
    "evaluate": "--traces 1 --validation-traces 1 --seeds 1 --requests 50 --policy random --policy lert:75 --jobs 1",
    "tune": "--policy lert:slack --budget 2 --traces 1 --requests 100",
    "simulate": "--requests 1000",
    "bounds": "--windows 1 --requests 4",
    "bench": "--seconds 2 --warm-up-s 0.5 --rate 50",
    "bench compare": "--seconds 1 --warm-up-s 0.5 --rounds 1",
    "profile": "--requests 2 --precision 1 --cycles 1",
}
"""Options behind those of a command, which take their place."""


def read_commands(page: Path, languages: Sequence[str] = ("console", "bash", "sh")) -> Iterator[str]:
    """Yield the command lines of a page's blocks of some languages; those that are continued as one."""
    for language, body in _BLOCK.findall(page.read_text()):
        if language not in languages:
            continue
        lines = re.sub(r"\\\n\s*", " ", body).splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from (" ".join(line.removesuffix("&").split()) for line in lines if line.strip())


def single_commands() -> list[str]:
    """Return all commands that no page's own test runs, each once."""
    done = {line for page in PAGES_ELSEWHERE for line in read_commands(ROOT / page, ["console"])}
    return [line for line in dict.fromkeys(chain.from_iterable(map(read_commands, PAGES))) if line not in done]


SINGLE = single_commands()
RUN = [line for line in SINGLE if not any(re.match(pattern, line) for pattern in (*ELSEWHERE, *NOT_RUN))]


def stage_of(line: str) -> int:
    """Return the number of the stage that a command belongs to, from 1 on; 0: to none."""
    return next((number for number, stage in enumerate(STAGES, 1) if re.match(stage, line)), 0)


def lessened(line: str) -> str:
    """Return a command that takes seconds."""
    words = line.split()
    kind = " ".join(words[1:3]) if " ".join(words[1:3]) in LESS else words[1]
    less = "" if "--check" in words else LESS.get(kind, "")
    command, *behind = re.split(r"(?= [|>])", line, maxsplit=1)
    return f"{command} {less}{''.join(behind)}".rstrip()


def test_every_command_is_run_somewhere_or_said_not_to_be() -> None:
    assert [line for line in RUN if not stage_of(line) and not re.match(SIMULATED, line)] == []
    for table in (ELSEWHERE, NOT_RUN):
        assert [pattern for pattern in table if not any(re.match(pattern, line) for line in SINGLE)] == []
    assert all((ROOT / page).exists() and (ROOT / test).exists() for page, test in PAGES_ELSEWHERE.items())
    not_run = [line for line in SINGLE if any(re.match(pattern, line) for pattern in NOT_RUN)]
    assert len(not_run) <= MOST_NOT_RUN, not_run


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name, in which they may write."""
    for name in ("examples", "model_repository", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    (tmp_path / "image.png").symlink_to(ROOT / "examples/fashion-mnist/images/bag.png")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def do(line: str, folder: Path, statuses: tuple[int, ...] = (0,)) -> str:
    done = execute(line, folder)
    assert done.returncode in statuses, f"{line}\n{done.stdout}"
    return done.stdout


@contextmanager
def going_on(line: str, folder: Path) -> Iterator[None]:
    """Run a command that does not end until the block does."""
    log = folder / f"{line.split()[1]}-{time.monotonic_ns()}.log"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("w") as written:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=folder, env={**os.environ, "PATH": path}, stdout=written, stderr=written
        )
    try:
        while ENDLESS[line.split()[1]] not in log.read_text():
            assert process.poll() is None, f"{line}\n{log.read_text()}"
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.parametrize("line", [line for line in RUN if re.match(SIMULATED, line)])
def test_what_is_simulated_works(line: str, checkout: Path) -> None:
    do(lessened(line).replace("/tmp/", ""), checkout)


@pytest.mark.integration
@pytest.mark.long
def test_what_is_shown_of_a_fleet_works(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"127.0.0.1:{port}" for port in choose_free_ports(3)]
    for name, address in zip(("GRPC", "HTTP", "METRICS"), addresses, strict=True):
        monkeypatch.setenv(f"SLIM_GATEWAY__{name}", address)
    try:
        with ExitStack() as going:
            for line in sorted(filter(stage_of, RUN), key=stage_of):
                run_with_fleet(line, checkout, addresses[0], going)
    finally:
        execute("slimsched local down --state-dir state", checkout)


def run_with_fleet(line: str, folder: Path, grpc: str, going: ExitStack) -> None:
    """Run one of the commands, with what the pages say in words besides; those that go on end with the stack."""
    if line.startswith("slimsched local down"):
        going.close()
    command = re.sub(r"slimsched (local \w+|up)\b", r"\g<0> --state-dir state", lessened(line))
    command = command.replace("127.0.0.1:8081", grpc)
    if " why " in line:
        decision = next(record["id"] for record in read_all(folder / "decisions") if not is_shed(record))
        command = command.replace("a93a3a-17", decision)
    if line.split()[1] in ENDLESS and "--dry-run" not in line:
        going.enter_context(going_on(command, folder))
        if "local-0" in line:
            going.enter_context(going_on(command.replace("local-0", "local-1"), folder))
        return
    do(command, folder, statuses=(0, 3) if " status " in line else (0,))  # a fleet that just came up may need attention
    if line.startswith("slimsched local up"):
        path = folder / "fleet.yaml"
        router = RouterSettings(decision_log=DecisionLogSettings(directory=folder / "decisions", sample_ratio=1))
        path.write_text(render_fleet(load_fleet(path).model_copy(update={"router": router})))
