"""What other packages bring by entry points, in groups of one kind: ``slimsched.policies`` and the like.

A package is looked at when something of it is named: nothing is registered by importing it, and none that merely
happens to be installed can break a process. One that fails while it is imported or asked is refused in one line with
its name, whatever it raises, the wish to end the process included.

Names of ours come first wherever both are known, so that no package changes what a file means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
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
        """Return the package, with its version, that brings one of the names."""
        point = self._points()[name]
        return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"

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
