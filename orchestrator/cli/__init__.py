"""The ``slimsched`` command line: composes, prints, and holds no logic.

Commands are imported when they are called, so that ``slimsched --help`` is quick and training's imports never
burden serving. Those of the ``export`` package come in through entry points: nothing here imports that package.
"""

from __future__ import annotations

import gc
import importlib
import traceback
from typing import Any

import click

from orchestrator.errors import SlimError
from orchestrator.installed.plugins import PluginGroup

_COMMANDS = {
    "bench": "orchestrator.cli.client.bench:bench",
    "bounds": "orchestrator.cli.research.bounds:bounds",
    "compile": "orchestrator.cli.serving.compile:compile_decisions",
    "config": "orchestrator.cli.serving.config:config",
    "controller": "orchestrator.cli.serving.controller:controller",
    "demand": "orchestrator.cli.client.status:demand",
    "demo": "orchestrator.cli.research.demo:demo",
    "evaluate": "orchestrator.cli.research.evaluate:evaluate",
    "gateway": "orchestrator.cli.serving.gateway:gateway",
    "infer": "orchestrator.cli.client.infer:infer",
    "local": "orchestrator.cli.serving.local:local",
    "policy-template": "orchestrator.cli.research.policy_template:policy_template",
    "profile": "orchestrator.cli.research.profile:profile",
    "refit": "orchestrator.cli.research.refit:refit",
    "report": "orchestrator.cli.research.report:report",
    "simulate": "orchestrator.cli.research.simulate:simulate",
    "status": "orchestrator.cli.client.status:status",
    "token": "orchestrator.cli.serving.token:token",
    "top": "orchestrator.cli.client.top:top",
    "train-router": "orchestrator.cli.research.train_router:train_router",
    "tune": "orchestrator.cli.research.tune:tune",
    "up": "orchestrator.cli.serving.up:up",
    "why": "orchestrator.cli.client.why:why",
}
_OF_PACKAGES = PluginGroup("slimsched.commands", "command")


class _OneLineUsageError(click.ClickException):
    exit_code = 2


class RootGroup(click.Group):
    """Loads commands lazily and turns every failure into one line, or a traceback with ``--debug``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*_COMMANDS, *_OF_PACKAGES.names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, None when there is none of that name."""
        command: click.Command
        if cmd_name in _COMMANDS:
            module, _, attribute = _COMMANDS[cmd_name].partition(":")
            gc.disable()  # what is imported stays; to look for garbage in it takes a sixth of a gateway's start
            try:
                command = getattr(importlib.import_module(module), attribute)
            finally:
                gc.freeze()
                gc.enable()
            return command
        if cmd_name in _OF_PACKAGES.names():
            command = _OF_PACKAGES.load(cmd_name)
            return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; expected errors and bugs alike end in one line and exit status 1."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # the last is a reader that has seen enough
            raise
        except click.UsageError as exc:  # click would print the usage too; one line says enough
            hint = f"; see '{exc.ctx.command_path} --help'" if exc.ctx else ""
            raise _OneLineUsageError(exc.format_message().rstrip(".") + hint) from exc
        except Exception as exc:
            if ctx.params.get("debug"):
                click.echo("".join(traceback.format_exception(exc)), err=True, nl=False)
            if isinstance(exc, click.ClickException):
                raise
            if isinstance(exc, SlimError):
                raise click.ClickException(" ".join(str(exc).split())) from exc
            raise click.ClickException(
                f"unexpected {type(exc).__name__}: {' '.join(str(exc).split())}; 'slimsched --debug ...' shows where"
            ) from exc


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
