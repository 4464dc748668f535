"""Packages that only some commands need: asked for before the work that needs them, and named with their extra.

The hint works wherever the program was installed from: pip takes an extra's requirements from the installed package,
be it a wheel or a checkout, and the interpreter says which environment is meant.
"""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec

from orchestrator.errors import ConfigError


def install_hint(extra: str) -> str:
    """Return the command that installs an extra into this environment."""
    return f"{shlex.quote(sys.executable)} -m pip install 'slim-scheduler[{extra}]'"


def check_extra(what: str, extra: str, *modules: str) -> None:
    """Raise ConfigError, with what needs them and how to install them, unless all of an extra's modules are there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(f"{what} needs {' and '.join(missing)}: {install_hint(extra)}")
