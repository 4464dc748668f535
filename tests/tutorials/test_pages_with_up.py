"""Pages whose commands write models, serve them with ``slimsched up``, and ask it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ports import choose_free_ports
from tests.tutorials.document import execute, run

pytestmark = [pytest.mark.integration, pytest.mark.long]

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
# A training that shall only warn is ended then, as the page says, and not after the minutes that it would take.
WARNED = {
    "--out runs/tiny\n": "--out runs/tiny > tiny.log 2>&1 & "
    "while kill -0 $! && ! grep -q 'For this size' tiny.log; do sleep 0.2; done; kill $!; cat tiny.log\n"
}


@pytest.mark.parametrize(
    ("page", "ports", "commands", "mostly_in_time"),
    [
        ("several-families", ("18101", "18102", "18180", "18181", "18182"), 21, ("plates.json",)),
        ("large-images", ("18201", "18280", "18281", "18282"), 12, ()),
    ],
)
def test_what_the_page_says_works(
    page: str,
    ports: tuple[str, ...],
    commands: int,
    mostly_in_time: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of PyTorch wait busily for those that other tests hold up
    replaced = dict(zip(ports, map(str, choose_free_ports(len(ports))), strict=True)) | WARNED
    try:
        assert run(TUTORIALS / f"{page}.md", tmp_path, replaced=replaced) == commands
        for measured in mostly_in_time:
            summary = json.loads((tmp_path / measured).read_text())
            assert summary["in_time"] > 0.5, summary
    finally:  # what runs still is ended as the page does it
        execute("kill $(cat up.pid) 2>/dev/null && timeout 60 tail --pid=$(cat up.pid) -f /dev/null", tmp_path)
