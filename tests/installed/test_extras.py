from __future__ import annotations

import shlex
import sys

import pytest

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import check_extra


def test_every_module_that_is_missing_is_named_with_a_command_for_this_environment() -> None:
    with pytest.raises(ConfigError) as found:
        check_extra("'slimsched fly'", "sim", "wings_of_wax", "numpy", "feathers_of_lead")
    problem, _, command = str(found.value).partition(": ")
    assert problem == "'slimsched fly' needs wings_of_wax and feathers_of_lead"
    assert shlex.split(command) == [sys.executable, "-m", "pip", "install", "slim-scheduler[sim]"]


def test_nothing_is_said_where_all_is_there() -> None:
    check_extra("'slimsched fly'", "sim", "numpy")
