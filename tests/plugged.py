"""Packages with plug-ins, as pip would have left them in a folder."""

from __future__ import annotations

from pathlib import Path

SAVER = (Path(__file__).parents[1] / "examples" / "own-policy" / "saver.py").read_text()


def install(folder: Path, module: str, source: str, points: dict[str, str], group: str = "slimsched.policies") -> None:
    """Write a package of one module with entry points of a group, by name."""
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    listed = "".join(f"{name} = {module}:{attribute}\n" for name, attribute in points.items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{listed}")
