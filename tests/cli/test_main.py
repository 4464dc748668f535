from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator.cli import RootGroup, main
from orchestrator.errors import ConfigError
from tests.plugged import install

LISTING_PROGRAM = """
import sys
from orchestrator.cli import main
try:
    main(["--help"], "slimsched")
except SystemExit:
    commands_and_more = ("orchestrator.cli.", "numpy", "numba", "aiohttp")
    print("imported:", *(module for module in sys.modules if module.startswith(commands_and_more)))
"""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_the_help_of_every_command_has_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example:\n" in result.output
    assert f"slimsched {path[0]}" in result.output.partition("Example:")[2]


def test_both_packages_commands_are_there() -> None:
    assert {"demo", "export", "infer", "local", "train", "verify"} <= {path[0] for path in commands(main)}


def test_the_help_says_in_a_line_of_eighty_what_each_command_is_for() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    lines = result.output.splitlines()
    assert set(main.list_commands(click.Context(main))) <= {line.split()[0] for line in lines if line.startswith("  ")}
    assert max(map(len, lines)) <= 80
    assert "..." not in " ".join(lines[1:])


@pytest.mark.parametrize("completes", [False, True], ids=["help", "completion"])
def test_commands_are_listed_without_what_they_import(completes: bool) -> None:
    words = {"_SLIMSCHED_COMPLETE": "bash_complete", "COMP_WORDS": "slimsched ", "COMP_CWORD": "1"} if completes else {}
    done = subprocess.run(
        [sys.executable, "-c", LISTING_PROGRAM], capture_output=True, text=True, env=os.environ | words, timeout=60
    )
    assert "train-router" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr


def test_a_command_of_a_package_that_cannot_be_imported_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "torn_one", "raise KeyError('x')\n", {"mow": "mow"}, "slimsched.commands")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(main, ["mow"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: command 'mow' of torn_one can't be imported (KeyError: 'x'); mend the package or name another command\n"
    )
    listed = CliRunner().invoke(main, ["--help"])
    assert listed.exit_code == 0
    assert "mow" in listed.output
    assert "can't be imported (KeyError: 'x')" in " ".join(listed.output.split())


def failing(error: Exception) -> RootGroup:
    @click.group(cls=RootGroup)
    @click.option("--debug", is_flag=True)
    def root(debug: bool) -> None: ...

    class Fails(RootGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return click.Command("fail", callback=self.fail)

        def fail(self) -> None:
            raise error

    return Fails("root", params=root.params)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("port 80 is busy;\n  use another"), "Error: port 80 is busy; use another\n"),
        (click.ClickException("no such file"), "Error: no such file\n"),
        (ZeroDivisionError("x"), "Error: unexpected ZeroDivisionError: x; 'slimsched --debug ...' shows where\n"),
    ],
)
def test_a_failure_is_one_line_and_a_status_and_a_traceback_only_with_debug(error: Exception, line: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.output) == (1, line)
    result = CliRunner().invoke(failing(error), ["--debug", "fail"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.output
    assert result.output.endswith(line)


def test_a_reader_that_has_seen_enough_is_no_error_to_tell() -> None:
    result = CliRunner().invoke(failing(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["fail"])
    assert (result.exit_code, result.output) == (1, "")


def modules() -> list[str]:
    names = (module.name for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."))
    # The backend runs inside Triton's stub, which alone has its utilities.
    elsewhere = (".learning", ".embedded.backend")
    return [name for name in names if not any(part in name for part in elsewhere)]


def test_serving_imports_no_torch() -> None:
    script = f"""
import importlib, sys
for blocked in ("torch", "torchvision", "onnx", "onnxscript", "matplotlib", "stable_baselines3"):
    sys.modules[blocked] = None
for name in {modules()!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(modules()) > 20
    assert importlib.import_module("orchestrator.router")


def test_a_usage_error_is_one_line_too() -> None:
    result = CliRunner().invoke(main, ["local", "up", "--servers", "0"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: Invalid value for '--servers': 0 is not in the range x>=1")
    assert result.output.count("\n") == 1
    assert "--help" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_the_script_that_completes(shell: str) -> None:
    result = CliRunner().invoke(main, prog_name="slimsched", env={"_SLIMSCHED_COMPLETE": f"{shell}_source"})
    assert result.exit_code == 0
    assert f"_SLIMSCHED_COMPLETE={shell}_complete" in result.output


@pytest.mark.parametrize(
    ("line", "completed"),
    [("slimsched conf", ["config"]), ("slimsched config s", ["schema", "show"]), ("slimsched why --j", ["--json"])],
)
def test_commands_and_options_are_completed(line: str, completed: list[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(main, prog_name="slimsched", env={"_SLIMSCHED_COMPLETE": "bash_complete", **words})
    assert result.output.split() == [f"plain,{word}" for word in completed]


@pytest.mark.parametrize("given", [None, "2"])
def test_a_command_has_one_thread_unless_blas_is_told_of_more(given: str | None) -> None:
    script = (
        "import psutil; from click.testing import CliRunner; from orchestrator.cli import main\n"
        "assert CliRunner().invoke(main, ['gateway', '--help']).exit_code == 0\n"
        "print(psutil.Process().num_threads())"
    )
    inherited = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    environment = inherited | ({} if given is None else {"OPENBLAS_NUM_THREADS": given})
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(int(given or 1), len(os.sched_getaffinity(0)))


def test_top_says_at_once_that_it_needs_a_terminal() -> None:
    result = CliRunner().invoke(main, ["top", "--address", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert (
        result.output == "Error: 'slimsched top' needs a terminal; elsewhere 'slimsched status' tells the same once\n"
    )


def parameters(group: click.Group) -> list[tuple[str, click.Parameter]]:
    found: list[tuple[str, click.Parameter]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += [(name, parameter) for parameter in command.params]
        if isinstance(command, click.Group):
            found += parameters(command)
    return found


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_option_takes_a_number_that_is_none(value: str) -> None:
    ranges = [(name, each) for name, each in parameters(main) if isinstance(each.type, click.types.FloatParamType)]
    taken = []
    for name, parameter in ranges:
        try:
            parameter.type.convert(value, parameter, None)
            taken.append((name, parameter.opts))
        except click.BadParameter:
            pass
    assert len(ranges) > 20
    assert taken == []
