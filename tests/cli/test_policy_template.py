"""The package that a policy of one's own begins with; tests/tutorials installs it and lets it route."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main

ROOT = Path(__file__).parents[2]
TEMPLATE = {file.name: file.read_text() for file in (ROOT / "examples" / "own-policy").iterdir() if file.is_file()}
PAGE = ROOT / "docs" / "tutorials" / "own-policy.md"


def write(directory: Path) -> Result:
    return CliRunner().invoke(main, ["policy-template", str(directory)])


def files(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def test_it_is_written_whole_to_a_directory_that_is_made_and_its_files_are_told(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "mine"
    written = write(directory)
    assert written.exit_code == 0
    assert written.output.splitlines() == [str(directory / name) for name in sorted(TEMPLATE)]
    assert files(directory) == TEMPLATE
    assert TEMPLATE.keys() == {"pyproject.toml", "saver.py", "test_saver.py"}
    assert list((tmp_path / "new").iterdir()) == [directory]


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert write(tmp_path / "mine").exit_code == 0
    assert files(tmp_path / "mine") == TEMPLATE


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "saver.py").write_text("my own")
    refused = write(tmp_path / "mine")
    assert refused.exit_code == 1
    assert refused.output == (
        f"Error: can't write the template to {tmp_path}/mine (Directory not empty); "
        "name a directory that does not exist yet\n"
    )
    assert files(tmp_path / "mine") == {"saver.py": "my own"}
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("directory", [".", "file/mine"])
def test_what_can_not_be_a_directory_is_refused_and_nothing_is_left(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    refused = write(Path(directory))
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: can't write the template to {directory} (")
    assert refused.output.endswith("; name a directory that does not exist yet\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = re.findall(r"^```(?:toml|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown == [TEMPLATE["pyproject.toml"], TEMPLATE["saver.py"], TEMPLATE["test_saver.py"]]
