"""What a run keeps, and what it takes for its own."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.learning import checkpoints
from orchestrator.learning.checkpoints import RunFolder, open_run


def begin(folder: Path, **options: bool) -> RunFolder:
    return RunFolder(folder, {"seed": 1}, **{"resume": False, **options})


def test_what_was_kept_is_there_again_and_gone_when_the_run_has_ended(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    assert list(run.path.iterdir()) == []
    run.write("rungs", {"utilities": [1.0]})
    run.write_state("ppo", {"weights": torch.ones(2)})
    again = begin(tmp_path / "run", resume=True)
    assert again.read("rungs") == {"utilities": [1.0]}
    state = again.read_state("ppo")
    assert state is not None
    np.testing.assert_array_equal(state["weights"].numpy(), [1, 1])
    (run.path / "log").mkdir()
    again.end()
    assert [each.name for each in run.path.iterdir()] == ["log"]
    assert begin(tmp_path / "run").read("rungs") is None


def test_what_lies_there_without_settings_is_neither_read_nor_mixed_with_a_new_run(tmp_path: Path) -> None:
    begin(tmp_path).write("rungs", {"utilities": ["of another fleet"]})
    begin(tmp_path, resume=True).write_state("ppo", {"of": 1})
    (tmp_path / "settings.json").unlink()
    run = begin(tmp_path)
    assert run.read("rungs") is None
    assert run.read_state("ppo") is None
    run.write("rungs", {"utilities": []})
    assert run.read_state("ppo") is None
    assert begin(tmp_path, resume=True).read_state("ppo") is None


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path: Path, *, restart: bool) -> None:
    (tmp_path / "resnet50.pt").write_bytes(b"mine")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds resnet50.pt, which is of no run; give an empty folder as --run"):
        begin(tmp_path, restart=restart)
    assert {each.name for each in tmp_path.iterdir()} == {"resnet50.pt", "settings.json"}


def test_a_run_is_not_resumed_unasked_nor_with_other_settings_but_refit_begins_anew(tmp_path: Path) -> None:
    begin(tmp_path).write("rungs", {})
    with pytest.raises(ConfigError, match="holds a run already; resume it with --resume"):
        begin(tmp_path)
    with pytest.raises(ConfigError, match=r"begun with other settings \(seed\)"):
        RunFolder(tmp_path, {"seed": 2}, resume=True)
    assert begin(tmp_path, restart=True).read("rungs") is None


def test_two_fits_can_not_be_at_work_in_one_folder(tmp_path: Path) -> None:
    with open_run(tmp_path, {}, resume=False) as run:
        run.write("rungs", {"of": "the first"})
        with (
            pytest.raises(ConfigError, match=r"another fit is at work in .*; wait until it has ended"),
            open_run(tmp_path, {}, resume=False, restart=True),
        ):
            pass
        assert run.read("rungs") == {"of": "the first"}
    with open_run(tmp_path, {}, resume=True) as run:
        assert run.read("rungs") == {"of": "the first"}


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(ConfigError, match=r"can't write into the folder .*; give another --run"),
        open_run(tmp_path, {}, resume=False),
    ):
        pass


def test_a_run_of_another_version_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path).write("rungs", {})
    monkeypatch.setattr(checkpoints, "read_version", lambda: "another")
    with pytest.raises(ConfigError, match=r"begun with other settings \(version\)"):
        begin(tmp_path, resume=True)


@pytest.mark.parametrize("damaged", ["{", "[]"])
def test_settings_that_are_damaged_are_told(tmp_path: Path, damaged: str) -> None:
    begin(tmp_path).write("rungs", {})
    (tmp_path / "settings.json").write_text(damaged)
    with pytest.raises(ConfigError, match=r"can't resume from .*settings\.json .*remove the folder to begin anew"):
        begin(tmp_path, resume=True)


def test_json_of_another_kind_than_was_kept_is_told_with_its_place(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write("rungs", {"utilities": [[1.0, "x"]]})
    with pytest.raises(ConfigError, match=r"can't resume from .*rungs\.json \(utilities: 0: 1: .*number"):
        run.read("rungs", dict[str, list[list[float]]])


def test_a_state_that_is_damaged_is_told(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write("rungs", {})
    (tmp_path / "ppo.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"can't resume from .*ppo\.pt"):
        run.read_state("ppo")


def test_what_can_not_be_kept_is_told_with_what_to_do(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    (tmp_path / "run").rmdir()  # as where its disk has gone
    with pytest.raises(ConfigError, match=r"can't keep how far the run has come in .*go on with --resume"):
        run.write("rungs", {})


@pytest.mark.parametrize("content", [b"", bytes(500), b"x"])
def test_a_state_that_is_damaged_is_told_without_the_advice_to_trust_it(tmp_path: Path, content: bytes) -> None:
    run = begin(tmp_path)
    run.write("rungs", {})
    (tmp_path / "ppo.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"ppo\.pt \(it is damaged\); remove the folder to begin anew$"):
        run.read_state("ppo")


def test_a_full_disk_is_told_where_others_write_the_log(tmp_path: Path) -> None:
    def write_log() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(ConfigError, match=r"can't keep how far .* \(No space left on device\); make room there"),
        open_run(tmp_path, {}, resume=False),
    ):
        write_log()
