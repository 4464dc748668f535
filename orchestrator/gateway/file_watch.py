"""Files that are read again when they change, while the gateway runs.

Looked at once a second instead of watched by inotify, which misses the swapped links of Kubernetes' mounted secrets and
network file systems; one ``stat`` a file costs nothing. What can't be used is refused with one line in the log and what
was read before is kept, until the files change once more: a certificate whose key comes a moment later is taken then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import Stamp, stamp_of

log = logging.getLogger(__name__)

PERIOD_S = 1.0


class WatchedFiles:
    """Some files, read already, that are taken together.

    ``take`` reads them and puts them to use; it raises ConfigError when they can't be used, and then changes nothing.
    ``stamps`` are those of the files from before they were read; None when that was only just now.
    """

    def __init__(
        self,
        what: str,
        paths: Iterable[Path],
        take: Callable[[], None],
        *,
        stamps: tuple[Stamp, ...] | None = None,
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._take = take
        self._stamps = self._read_stamps() if stamps is None else stamps

    def refresh(self, *, is_forced: bool = False) -> None:
        """Read the files when they have changed or when it is forced; raises only what ``take`` should not."""
        stamps = self._read_stamps()
        if stamps == self._stamps and not is_forced:
            return
        self._stamps = stamps
        try:
            self._take()
        except ConfigError as exc:
            log.warning("%s: kept as before: %s", self._what, exc)
        else:
            log.info("%s: read again", self._what)

    def _read_stamps(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in self._paths)


async def watch(files: Sequence[WatchedFiles]) -> None:
    """Look at all files once a second, for ever."""
    while True:
        await asyncio.sleep(PERIOD_S)
        for watched in files:
            watched.refresh()
