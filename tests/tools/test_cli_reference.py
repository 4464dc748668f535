from __future__ import annotations

from pathlib import Path

import pytest

from tools.cli_reference import PAGE, commands, render_page
from tools.man_pages import write_pages


def test_the_reference_is_that_of_the_commands() -> None:
    assert PAGE.read_text() == render_page(), "run 'python -m tools.cli_reference'"


def test_every_command_says_what_it_does_and_every_example_is_of_the_command() -> None:
    for path, command in commands():
        text = command.help or ""
        assert text.strip(), path
        if "Example:" in text:
            assert "slimsched" in text.partition("Example:")[2], path


@pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")  # click-man's
def test_every_command_has_a_manual_page(tmp_path: Path) -> None:
    write_pages(tmp_path)
    pages = {path.name for path in (tmp_path / "man1").iterdir()}
    assert pages == {f"{path.replace(' ', '-')}.1" for path, _ in commands()}
    assert "router.decision_log" in (tmp_path / "man1" / "slimsched-why.1").read_text().replace("\\", "")
