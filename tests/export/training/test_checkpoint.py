from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.errors import CheckpointError
from export.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from export.width import Width
from tests.export.toys import lively_network, toy_checkpoint


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (os.mkdir, (str(self.path),))


def test_saving_and_loading_gives_the_same_network(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(checkpoint, tmp_path / "deep" / "model.pt")
    loaded = load_checkpoint(tmp_path / "deep" / "model.pt")
    assert (loaded.images, loaded.widths, loaded.accuracy) == (
        checkpoint.images,
        checkpoint.widths,
        checkpoint.accuracy,
    )
    pixels = torch.rand(2, *checkpoint.images.shape)
    assert torch.equal(loaded.network()(pixels, Width(50)), checkpoint.network()(pixels, Width(50)))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt"]


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="slimsched train"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(checkpoint: Checkpoint, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(checkpoint, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load_checkpoint(path)


def test_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("hello, I am no network\n" * 50)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "model.pt")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "arch": "resnet18"}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="another program"):
        load_checkpoint(tmp_path / "foreign.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_never_run(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "was_run"
    if zipped:
        torch.save({"format": Payload(trace)}, tmp_path / "evil.pt")
    else:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(trace), protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not trace.exists()


def test_fields_of_another_version_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(checkpoint, path)
    values = torch.load(path, weights_only=True)
    torch.save({**values, "novelty": 1}, path)
    with pytest.raises(CheckpointError, match="another version"):
        load_checkpoint(path)


def test_weights_of_another_architecture_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="do not fit slimresnet20"):
        replace(checkpoint, architecture="slimresnet20").network()


def test_widths_that_were_not_trained_are_refused_with_those_that_were(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"no width 0\.30; it was trained for 0\.25, 0\.50, 0\.75, 1\.00"):
        checkpoint.require_widths((Width(30), Width(50)))


def test_a_place_that_can_not_be_written_is_an_error_and_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can't write"):
        save_checkpoint(checkpoint, tmp_path / "file" / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", ("x",)),
        ("widths", (0, 250)),
        ("widths", (float("inf"),)),
        ("images", (1, 28, float("inf"))),
        ("widths", (100, 25)),
        ("model", 3),
        ("architecture", ["a"]),
        ("images", 1),
    ],
)
def test_senseless_fields_are_refused(field: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(toy_checkpoint(lively_network()), path)
    values = torch.load(path, weights_only=True)
    torch.save({**values, field: value}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path).network()
