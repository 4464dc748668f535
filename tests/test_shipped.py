from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.shipped import ROOT, find_shipped

SCENARIO = Path("scenarios") / "two-unlike.yaml"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_ships_is_found_by_its_path_in_the_sources_from_any_folder(elsewhere: Path) -> None:
    assert find_shipped(SCENARIO) == ROOT / SCENARIO
    assert find_shipped(Path("model_repository")).is_dir()


def test_what_the_working_directory_has_goes_first(elsewhere: Path) -> None:
    (elsewhere / "scenarios").mkdir()
    (elsewhere / SCENARIO).touch()
    assert find_shipped(SCENARIO) == SCENARIO


def test_a_working_directory_that_this_user_may_not_look_into_has_nothing(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "scenarios").mkdir()
    (elsewhere / SCENARIO).touch()
    look = os.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if not Path(path).is_absolute():
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert find_shipped(SCENARIO) == ROOT / SCENARIO


def test_what_is_nowhere_and_what_ships_nothing_stay_as_they_are(elsewhere: Path) -> None:
    for name in ("scenarios/none.yaml", "own.yaml", "pyproject.toml", "tests", ".", "/scenarios/two-unlike.yaml"):
        assert find_shipped(Path(name)) == Path(name)


def test_a_profile_lies_beside_what_names_it_or_ships(tmp_path: Path) -> None:
    profile = Path("profiles") / "demo-fleet.json"
    assert find_shipped(profile, tmp_path) == ROOT / profile
    (tmp_path / "profiles").mkdir()
    (tmp_path / profile).touch()
    assert find_shipped(profile, tmp_path) == tmp_path / profile
