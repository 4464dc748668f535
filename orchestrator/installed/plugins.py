"""What other packages bring by entry points, in groups of one kind: ``slimsched.policies`` and the like.

A package is looked at when something of it is named: nothing is registered by importing it, and none that merely
happens to be installed can break a process. One that fails while it is imported or asked is refused in one line with
its name, whatever it raises, the wish to end the process included.

Names of ours come first wherever both are known, so that no package changes what a file means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginGroup:
    """A group of entry points.

    Attributes:
        name: As packages write it, such as ``slimsched.policies``.
        kind: What one is called in errors.
    """

    name: str
    kind: str

    def names(self) -> tuple[str, ...]:
        """Return what installed packages bring, sorted; none of them is imported."""
        return tuple(sorted(self._points()))

    def describe(self) -> str:
        """Return the end of a sentence that lists what is known; empty where no package brings anything."""
        return f"; of other packages {', '.join(names)}" if (names := self.names()) else ""

    def origin(self, name: str) -> str:
        """Return the package that brings one of the names."""
        point = self._points()[name]
        return point.value if point.dist is None else point.dist.name

    def version(self, name: str) -> str:
        """Return the package, with its version and a digest of its sources, that brings one of the names.

        A package that is installed to be edited changes without another version.
        """
        point = self._points()[name]
        package = point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
        return f"{package} {_digest_sources(point.module)}"

    def load(self, name: str) -> Any:
        """Return what one of the names stands for; raises ConfigError when that can't be imported."""
        return self._guard(name, name, "imported", self._points()[name].load)

    def call(self, name: str, make: Callable[[], T], *, written: str = "") -> T:
        """Return what a plug-in of that name, ``written`` with more, makes; raises ConfigError whatever it raises."""
        return self._guard(name, written or name, "made", make)

    def _guard(self, name: str, written: str, done: str, make: Callable[[], T]) -> T:
        try:
            return make()
        except (Exception, SystemExit) as exc:
            said = " ".join(str(exc).split())
            raise ConfigError(
                f"{self.kind} {written!r} of {self.origin(name)} can't be {done} ({type(exc).__name__}: {said}); mend "
                f"the package or name another {self.kind}"
            ) from exc

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.name)}


def _digest_sources(module: str) -> str:
    """Return a digest of the sources of the top-level package that a module is in; empty where it has none."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return ""
    folders = spec.submodule_search_locations or []
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    if not files and spec.has_location and spec.origin is not None:
        files = [Path(spec.origin)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
