"""The ``slimsched`` command line: composes, prints, and holds no logic.

Commands are imported when they are called, so that ``slimsched --help`` and what a shell completes are quick, and
training's imports never burden serving. Those of the ``export`` package come in through entry points: nothing here
imports that package.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from orchestrator.errors import SlimError
from orchestrator.installed.plugins import PluginGroup

_INTERRUPTED = 130
"""The exit status of what SIGINT, or another signal in its place, has ended, as shells have it."""
_LIKE_SIGINT = (signal.SIGTERM, signal.SIGHUP)
_STANDARD_STREAMS = 3


class _Entry(NamedTuple):
    """Where a command is, and what it is for, in the words of the list of commands."""

    path: str
    summary: str


_SECTIONS = {
    "Serving": {
        "up": _Entry("serving.up:up", "Run a whole fleet on this machine until Ctrl-C"),
        "local": _Entry("serving.local:local", "Run real Tritons on this machine, in the background"),
        "gateway": _Entry("serving.gateway:gateway", "Answer Triton clients, each request routed over the fleet"),
        "controller": _Entry("serving.controller:controller", "Keep a Triton loaded with the right widths and batches"),
        "config": _Entry("serving.config:config", "Check a fleet file, show what is in force, print its schema"),
        "token": _Entry("serving.token:token", "Make tokens for the gateway's clients"),
        "compile": _Entry("serving.compile:compile_decisions", "Compile what decides ahead of time, as for an image"),
    },
    "Asking and watching": {
        "infer": _Entry("client.infer:infer", "Run images, and show what was decided for each"),
        "bench": _Entry("client.bench:bench", "Send labelled load, and show what was right and in time"),
        "status": _Entry("client.status:status", "Show what each server's controller knows, wants and did"),
        "demand": _Entry("client.status:demand", "Ask a controller to load a width and keep it for a while"),
        "top": _Entry("client.top:top", "Show what a gateway and its fleet do, as it happens"),
        "why": _Entry("client.why:why", "Tell why a request ran where it ran"),
        "report": _Entry("research.report:report", "Report what came of traffic, and of other policies for it"),
    },
    "Policies": {
        "demo": _Entry("research.demo:demo", "Hold the default against rivals on two real Tritons"),
        "profile": _Entry("research.profile:profile", "Measure each width and batch size on each server"),
        "simulate": _Entry("research.simulate:simulate", "Run policies on a scenario in virtual time"),
        "evaluate": _Entry("research.evaluate:evaluate", "Hold policies against each other on a suite of scenarios"),
        "bounds": _Entry("research.bounds:bounds", "Show what no policy can do better on a scenario"),
        "train-router": _Entry("research.train_router:train_router", "Fit a policy to a fleet and its traffic"),
        "refit": _Entry("research.refit:refit", "Fit a policy to the traffic that a router has recorded"),
        "tune": _Entry("research.tune:tune", "Try configurations of every rule, and keep the best"),
        "policy-template": _Entry("research.policy_template:policy_template", "Begin a package with your own policy"),
    },
}
_COMMANDS = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "1")
"""numpy's BLAS would start a thread per core in each process, which spin for a tenth of a second and then have nothing
to do: no command of this package multiplies with it."""
_SUMMARY_LENGTH = 59  # of a line of 80
_OF_PACKAGES = PluginGroup("slimsched.commands", "command")


class _OneLineUsageError(click.ClickException):
    exit_code = 2


class RootGroup(click.Group):
    """Loads commands lazily and turns every failure into one line, or a traceback with ``--debug``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*_COMMANDS, *_names_of_packages()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, None when there is none of that name."""
        command: click.Command
        if cmd_name in _COMMANDS:
            module, _, attribute = _COMMANDS[cmd_name].path.partition(":")
            os.environ.setdefault(*_ONE_THREAD)
            gc.disable()  # what is imported stays; to look for garbage in it takes a sixth of a gateway's start
            try:
                command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
            finally:
                gc.freeze()
                gc.enable()
            return command
        if cmd_name in _OF_PACKAGES.names():
            command = _OF_PACKAGES.load(cmd_name)
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the commands are for."""
        sections = {title: [(name, entry.summary) for name, entry in own.items()] for title, own in _SECTIONS.items()}
        sections["Models, and what other packages bring"] = [(name, _summarize(name)) for name in _names_of_packages()]
        longest = max(len(name) for rows in sections.values() for name, _ in rows)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), summary) for name, summary in rows])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin so."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=_summarize(name)) for name in names]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; expected errors and bugs alike end in one line and exit status 1, an interruption with 130.

        SIGTERM and SIGHUP interrupt as Ctrl-C does what does nothing else about them. A command that can go on later
        says how as the KeyboardInterrupt's text.
        """
        _fill_standard_descriptors()
        try:
            with _interrupted_by_other_signals():
                return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            click.echo("; ".join(filter(None, ("interrupted", str(exc)))), err=True)
            ctx.exit(_INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # the last is a reader that has seen enough
            raise
        except click.UsageError as exc:  # click would print the usage too; one line says enough
            hint = f"; see '{exc.ctx.command_path} --help'" if exc.ctx else ""
            raise _OneLineUsageError(exc.format_message().rstrip(".") + hint) from exc
        except Exception as exc:
            _show_trace(exc, is_wanted=bool(ctx.params.get("debug")))
            if isinstance(exc, click.ClickException):
                raise
            if isinstance(exc, SlimError):
                raise click.ClickException(" ".join(str(exc).split())) from exc
            raise click.ClickException(
                f"unexpected {type(exc).__name__}: {' '.join(str(exc).split())}; 'slimsched --debug ...' shows where"
            ) from exc


def _fill_standard_descriptors() -> None:
    """Open the null device in place of standard streams that are closed, as by a shell's ``<&- >&- 2>&-``.

    The next sockets would get their numbers, be what libraries print to, and abort the process when libuv closes them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < _STANDARD_STREAMS:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


@contextmanager
def _interrupted_by_other_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, where they would end the process and leave to others what that began.

    Who stops a Kubernetes job, a timer of systemd or a ``timeout`` sends no other signal than the first, and a terminal
    that closes none than the second. Where one is ignored, as with ``nohup``, it stays so.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in _LIKE_SIGINT if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, lambda number, frame: _interrupt(number))
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int) -> None:
    if number == signal.SIGHUP:  # a shell sends one and then the kernel, of which the second would interrupt the end
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a script runs in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _show_trace(error: Exception, *, is_wanted: bool) -> None:
    if is_wanted:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _names_of_packages() -> list[str]:
    return [name for name in _OF_PACKAGES.names() if name not in _COMMANDS]


def _summarize(name: str) -> str:
    """Return what a command is for; of one of another package that can't be imported, why."""
    if name in _COMMANDS:
        return _COMMANDS[name].summary
    try:
        command: click.Command = _OF_PACKAGES.load(name)
        return command.get_short_help_str(_SUMMARY_LENGTH)
    except SlimError as exc:
        return str(exc)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from orchestrator.installed.version import describe_version  # asks git, which no other command needs

    click.echo(f"slimsched {describe_version()}")
    ctx.exit()


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main(debug: bool) -> None:
    """Serve slimmable CNNs over many Tritons.

    \b
    Example:
      slimsched local up --servers 2 --slowdown 1,3 --fleet fleet.yaml
      slimsched infer --fleet fleet.yaml image.png
    """
