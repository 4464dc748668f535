from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from export.errors import CheckpointError
from export.network.factories import make_network
from export.network.protocol import Task
from export.training.checkpoint import save_checkpoint
from export.training.pretrained import start_from
from export.width import Width
from tests.export.toys import WIDTHS, enliven, lively_network, toy_checkpoint, toy_task

FULL = Width(100)


@pytest.mark.parametrize(
    ("name", "make"), [("slimresnet50", models.resnet50), ("slimmobilenet-v2", models.mobilenet_v2)]
)
def test_a_network_of_torchvision_computes_the_same_at_full_width(name: str, make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = make(weights=None).eval()
    enliven(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    task = Task(1000, (3, 64, 64), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ours = make_network(name, (Width(50), FULL), task)
    said = start_from(tmp_path / "theirs.pt", ours, name, task)
    assert said == f"Started from {tmp_path / 'theirs.pt'}, channels sorted by importance."
    pixels = torch.rand(2, 3, 64, 64)
    normal = (pixels - torch.tensor(task.mean).view(3, 1, 1)) / torch.tensor(task.std).view(3, 1, 1)
    with torch.inference_mode():
        wanted, found = theirs(normal), ours.eval()(pixels, FULL)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


def test_narrow_widths_get_the_leading_part_of_the_sorted_channels(tmp_path: Path) -> None:
    trained = lively_network(widths=(FULL,))
    save_checkpoint(toy_checkpoint(trained, widths=(FULL,)), tmp_path / "model.pt")
    network = make_network("slimresnet-tiny", WIDTHS, toy_task())
    start_from(tmp_path / "model.pt", network, "slimresnet-tiny", toy_task())
    state = network.state_dict()
    for part in ("weight", "bias", "running_mean", "running_var"):
        full = state[f"stem.norm.norms.w100.{part}"]
        assert torch.equal(state[f"stem.norm.norms.w025.{part}"], full[:4])
        assert sorted(full.tolist()) == sorted(trained.state_dict()[f"stem.norm.norms.w100.{part}"].tolist())


def test_a_checkpoint_of_several_widths_gives_its_full_width(tmp_path: Path) -> None:
    save_checkpoint(toy_checkpoint(lively_network()), tmp_path / "model.pt")
    network = make_network("slimresnet-tiny", (FULL,), toy_task()).eval()
    start_from(tmp_path / "model.pt", network, "slimresnet-tiny", toy_task())
    pixels = torch.rand(2, *toy_task().shape)
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels, FULL), lively_network()(pixels, FULL), atol=1e-4, rtol=1e-4)


class Own(torch.nn.Module):
    """A network of somebody else: its norms are named by the width, with something in front or not."""

    def __init__(self, widths: tuple[Width, ...], task: Task, before: str) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(16, task.shape[0], 3, 3))
        self.norms = torch.nn.ModuleDict(
            {f"{before}{w}": torch.nn.ModuleList([torch.nn.BatchNorm2d(16 * w // 100)]) for w in widths}
        )
        self.classifier = torch.nn.Linear(16, task.classes)


@pytest.mark.parametrize("before", ["", "percent"])
def test_a_checkpoint_of_ones_own_network_gives_narrow_norms_too_where_their_names_say_the_width(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.training.pretrained.make_network", lambda name, widths, task: Own(widths, task, before))
    trained = Own(WIDTHS, toy_task(), before)
    enliven(trained)
    torch.save(trained.state_dict(), tmp_path / "own.pt")
    network = Own(WIDTHS, toy_task(), before)
    said = start_from(tmp_path / "own.pt", network, "own:make", toy_task())
    state, narrow = network.state_dict(), f"norms.{before}{WIDTHS[0]}.0.running_mean"
    if before:
        assert said.endswith(f"tensors of narrower widths are new, norms.{before}{WIDTHS[0]}.0.weight among them.")
        assert torch.equal(state[narrow], torch.zeros(len(state[narrow])))
    else:
        assert "new" not in said
        assert torch.equal(state[narrow], trained.state_dict()["norms.100.0.running_mean"][: len(state[narrow])])


def test_a_classifier_of_other_classes_is_left_new(tmp_path: Path) -> None:
    torch.save({"state_dict": lively_network(widths=(FULL,), classes=9).state_dict()}, tmp_path / "nine.pt")
    network = make_network("slimresnet-tiny", WIDTHS, toy_task())
    before = network.state_dict()["classifier.bias"].clone()
    assert start_from(tmp_path / "nine.pt", network, "slimresnet-tiny", toy_task()).endswith("with a new classifier.")
    assert before.shape == network.state_dict()["classifier.bias"].shape


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda: {"epoch": 3}, "no state dict .it holds 'epoch'.; save network.state_dict"),
        (lambda: {}, "no state dict"),
        (lambda: {3: torch.zeros(1)}, "has 1 tensors"),
        (lambda: [1], "holds a list and no dictionary"),
        (lambda: {"a": torch.zeros(1)}, "has 1 tensors and the network at full width 77, stem.weight among them"),
        (
            lambda: lively_network(widths=(FULL,), channels=3).state_dict(),
            r"stem.weight has shape \[16, 3, 3, 3\] there",
        ),
        (lambda: lively_network("slimresnet20", (FULL,)).state_dict(), "tensors and the network at full width"),
    ],
)
def test_a_file_that_does_not_fit_is_told(values: Any, message: str, tmp_path: Path) -> None:
    torch.save(values(), tmp_path / "bad.pt")
    network = make_network("slimresnet-tiny", WIDTHS, toy_task())
    with pytest.raises(CheckpointError, match=message):
        start_from(tmp_path / "bad.pt", network, "slimresnet-tiny", toy_task())


def test_a_network_without_groups_keeps_its_order_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.network.resnet import SlimResNet

    trained = lively_network(widths=(FULL,))
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    monkeypatch.setattr(SlimResNet, "channel_groups", None)
    network = make_network("slimresnet-tiny", WIDTHS, toy_task())
    said = start_from(tmp_path / "trained.pt", network, "slimresnet-tiny", toy_task())
    assert "because slimresnet-tiny has no channel_groups" in said
    assert torch.equal(network.state_dict()["stem.weight"], trained.stem.weight)
