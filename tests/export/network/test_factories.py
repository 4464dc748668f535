from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.errors import NetworkError
from export.network.factories import BUILT_IN, make_network
from tests.export.toys import WIDTHS, toy_task

TASK = toy_task()
MODULE = """
import torch

class Pooled(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = torch.nn.Linear(1, classes)

    def forward(self, pixels, width):
        return self.layer(pixels.mean(dim=(2, 3))) * width / 100

def make(widths, task):
    return Pooled(task.classes)

def broken(widths, task):
    raise RuntimeError("no weights")

def text(widths, task):
    return "network"

def unslimmable(widths, task):
    return torch.nn.Conv2d(1, 1, 3)

def other_classes(widths, task):
    return Pooled(task.classes + 1)

constant = 3
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ownnet.py").write_text(MODULE)
    (tmp_path / "ownbroken.py").write_text("import nothing_like_it")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ownnet", None)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_network_runs_at_every_width(name: str) -> None:
    network = make_network(name, WIDTHS, toy_task(3, 7, side=33))  # in training: statistics of new norms say nothing
    pixels = torch.rand(8, 3, 33, 33)
    with torch.no_grad():
        outputs = [network(pixels, width) for width in WIDTHS]
    assert {tuple(o.shape) for o in outputs} == {(8, 7)}
    assert not torch.allclose(outputs[0], outputs[-1])


def test_a_network_of_ones_own_is_made_by_its_factory() -> None:
    network = make_network("ownnet:make", WIDTHS, TASK)
    assert network(torch.rand(2, *TASK.shape), WIDTHS[0]).shape == (2, TASK.classes)
    assert network.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-huge", r"unknown network 'resnet-huge'; known are slimresnet-tiny, .*; your own is --network"),
        ("ownnet:", "not of the form package.module:function"),
        ("ownnet:make()", "not of the form"),
        ("nowhere:make", r"--network nowhere:make: can't be imported \(ModuleNotFoundError: .*\); .* start where"),
        ("ownbroken:make", r"--network ownbroken:make: can't be imported .*nothing_like_it"),
        ("ownnet:none", r"--network ownnet:none: can't be imported \(AttributeError: .*'none'"),
        ("ownnet:constant", "--network ownnet:constant: is a [a-z]+ and no function"),
        (
            "ownnet:broken",
            r"--network ownnet:broken raises RuntimeError: no weights; called with \(\(25, 50, 75, 100\), Task\(",
        ),
        ("ownnet:text", "ownnet:text returns a str; return a torch.nn.Module"),
        ("ownnet:unslimmable", r"at width 0\.25: forward\(pixels \[2, 1, 12, 12\], 25\) raises TypeError: .*Switched"),
        ("ownnet:other_classes", r"forward returns \[2, 4\]; return logits float32 \[n, 3\]"),
    ],
)
def test_what_is_no_slimmable_network_is_one_line(name: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        make_network(name, WIDTHS, TASK)
    assert len(str(caught.value).splitlines()) == 1
