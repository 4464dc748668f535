"""What a tritonserver leaves behind when it is killed; for its guardian, so only the standard library.

- Python stubs, one a model instance, which are in its session and go with that.
- A shared memory region for each stub. A stub's arguments name it, and so do the mappings of both: only what is
  certainly ours is unlinked. A tritonserver that goes on after a stub was killed leaves regions too, 1 MiB each: it
  unmaps them when the model is reloaded, and unlinks none. What it had mapped, and no process of its session has any
  more, is unlinked then.
- An empty /tmp/python_env_*, which the Python backend makes for each server and only an orderly exit removes.
"""

import contextlib
import os
import re
from pathlib import Path

from orchestrator.processes.guardian import Leftovers as NoLeftovers
from orchestrator.processes.process_table import list_processes, list_session, read_command_line, read_identity

SHM_REGION = re.compile(r"triton_\w+_shm_region_[0-9a-f-]{36}")
STUB_NAME = "triton_python_backend_stub"


class Leftovers(NoLeftovers):
    """The shared memory regions of one tritonserver, and the empty directories of all that have gone."""

    def __init__(self) -> None:
        self._regions: set[str] = set()

    def note(self, pid: int) -> None:
        """Remember the regions that a server or a stub of it has mapped or names in its arguments."""
        self._regions |= _read_regions(pid)

    def sweep(self, pid: int) -> None:
        """Remember the regions that a server has, and unlink those that it had and nobody of its session has."""
        held = _read_regions(pid)
        left = self._regions - held
        self._regions |= held
        if left:
            left -= set().union(*map(_read_regions, list_session(pid)))
            _unlink(left)
            self._regions -= left

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
