"""Packages with plug-ins, as pip would have left them in a folder."""

from __future__ import annotations

from pathlib import Path

SAVER = """
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.policies.knobs import Knob
from orchestrator.policies.protocol import Binding


@dataclass(frozen=True)
class Saver:
    name: str
    share: float = 0.5
    knobs: ClassVar = (Knob("share", at=0, default=0.5, least=0.1, most=1.0),)
    binding: ClassVar = Binding.LATE

    def choose(self, candidates, situation):
        free = [c for c in candidates if c.has_room]
        if not free:
            return Hold(Reason.BETTER_SERVER_BUSY)
        in_time = [c for c in free if c.completion_s <= self.share * situation.head_slack_s]
        if not in_time:
            return Dispatch(min(free, key=lambda c: c.drain_s), Reason.NONE_IN_TIME)
        return Dispatch(max(in_time, key=lambda c: c.accuracy), Reason.MOST_ACCURATE)
"""


def install(folder: Path, module: str, source: str, points: dict[str, str], group: str = "slimsched.policies") -> None:
    """Write a package of one module with entry points of a group, by name."""
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    listed = "".join(f"{name} = {module}:{attribute}\n" for name, attribute in points.items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{listed}")
