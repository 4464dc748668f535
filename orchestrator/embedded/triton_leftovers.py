"""What a tritonserver leaves behind, and waits for in vain; for its guardian, so only the standard library.

A tritonserver that is killed leaves

- Python stubs, one a model instance, which are in its session and go with that.
- A shared memory region for each stub. A stub's arguments name it, and so do the mappings of both: only what is
  certainly ours is unlinked. A tritonserver that goes on after a stub was killed leaves regions too, 1 MiB each: it
  unmaps them when the model is reloaded, and unlinks none. What it had mapped, and no process of its session has any
  more, is unlinked then.
- An empty /tmp/python_env_*, which the Python backend makes for each server and only an orderly exit removes.

A stub that stalls just as it loads is taken for dead and told to end, though it may never read that; Triton 2.51 waits
for its end without a limit, and its model stays unserved, or the whole server unready. So the guardian ends a stub that
a thread of tritonserver has waited for, in wait4 as ``/proc`` shows it, for ``LONGEST_WAIT_S``. Then Triton goes on,
and the model can be loaded again. Where the kernel does not show that, nothing is done.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.processes.guardian import Leftovers as NoLeftovers
from orchestrator.processes.process_table import (
    list_awaited,
    list_processes,
    list_session,
    read_command_line,
    read_identity,
)

SHM_REGION = re.compile(r"triton_\w+_shm_region_[0-9a-f-]{36}")
STUB_NAME = "triton_python_backend_stub"
LONGEST_WAIT_S = 10.0
"""A stub that ends by itself takes about a second; a Python model whose ``finalize`` takes longer is ended as well."""
_LOOK_S = 3.0
"""From one look at what is waited for to the next: a server has a hundred threads."""


class Leftovers(NoLeftovers):
    """The shared memory regions of one tritonserver, stubs that never end, and empty directories of all that have gone.

    ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._regions: set[str] = set()
        self._clock = clock
        self._look_at_s = 0.0
        self._awaited: dict[int, float] = {}  # stubs, and since when

    def note(self, pid: int) -> None:
        """Remember the regions that a server or a stub of it has mapped or names in its arguments."""
        self._regions |= _read_regions(pid)

    def sweep(self, pid: int) -> None:
        """Unlink the regions that a server had and nobody of its session has; end stubs that it waits for in vain."""
        self._end_awaited(pid)
        held = _read_regions(pid)
        left = self._regions - held
        self._regions |= held
        if left:
            left -= set().union(*map(_read_regions, list_session(pid)))
            _unlink(left)
            self._regions -= left

    def _end_awaited(self, pid: int) -> None:
        now_s = self._clock()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_S
        awaited = list_awaited(pid)
        stubs = awaited.intersection(list_stubs(pid)) if awaited else ()
        self._awaited = {stub: self._awaited.get(stub, now_s) for stub in stubs}
        for stub, since_s in self._awaited.items():
            if now_s - since_s >= LONGEST_WAIT_S:
                print(
                    f"slimsched: ended stub {stub}, as tritonserver had waited for its end for {now_s - since_s:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stub, signal.SIGKILL)

    def remove(self) -> None:
        """Unlink the regions, and remove the directories of this user when no tritonserver lives at all.

        Nothing shows whose a directory is.
        """
        _unlink(self._regions)
        if any(_read_name(pid) == "tritonserver" and read_identity(pid) for pid in list_processes()):
            return
        for path in Path("/tmp").glob("python_env_??????"):
            with contextlib.suppress(OSError):  # not empty, or just gone
                if path.stat().st_uid == os.getuid():
                    path.rmdir()


def list_stubs(session_id: int) -> list[int]:
    """Return the process ids of the Python stubs in a tritonserver's session."""
    return [pid for pid in list_session(session_id) if (read_command_line(pid) or [""])[0].endswith(STUB_NAME)]


def _read_regions(pid: int) -> set[str]:
    regions = {argument for argument in read_command_line(pid) if SHM_REGION.fullmatch(argument)}
    with contextlib.suppress(OSError):  # it is gone
        regions.update(SHM_REGION.findall(Path(f"/proc/{pid}/maps").read_text()))
    return regions


def _unlink(regions: set[str]) -> None:
    for region in regions:
        with contextlib.suppress(OSError):
            os.unlink(f"/dev/shm/{region}")


def _read_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
