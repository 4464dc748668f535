"""What decides is compiled before a router says that it is there, and in another process.

Compiling takes half a minute, once for each version of the sources (``orchestrator.policies.preparation``). The process
that serves would keep the 300 MiB that it takes, could not be stopped meanwhile, and its event loop would share the
interpreter's lock with the compiler. So a process of its own compiles, keeps the result on disk and ends; who serves
loads it. A gateway does that before it starts its workers, so that there is one compiler and not one a worker. An image
of a container has it done as it is built (``compile_into``).

Logged as a warning: who starts a router from a script or a prompt, with no logging set up, sees why it takes so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.policies.preparation import is_prepared, prepare
from orchestrator.policies.tables.code_cache import ANY_PROCESSOR, PLACE_VARIABLE, this_processor
from orchestrator.policies.tables.compiled import CACHE_DIR

log = logging.getLogger(__name__)

_WATCH = (
    "import os, sys, threading; threading.Thread(target=lambda: sys.stdin.read() or os._exit(1), daemon=True).start()"
)
"""It must not outlive who waits for it: the kernel closes the pipe, whatever has killed that."""
_SCRIPT = "from orchestrator.policies.preparation import prepare; prepare()"


async def prepare_decisions() -> None:
    """Return when decisions can be made at once, by whatever policy."""
    if CACHE_DIR is None and prepare.cache_info().currsize:
        return  # this process has compiled it, and has said why that took long
    await compile_ahead()
    if is_prepared():
        prepare()
    else:
        await asyncio.to_thread(prepare)  # at least signals are heard meanwhile


async def load_ahead() -> None:
    """Load what is compiled, some tenth of a second, while the event loop goes on: health is asked meanwhile."""
    await asyncio.to_thread(prepare)


async def compile_ahead() -> None:
    """Have all that decides compiled and kept on disk, if it is not; where that can't be done, say so."""
    if is_prepared():
        return
    if os.environ.get(PLACE_VARIABLE):
        log.warning(
            "%s = %s has nothing for these sources, Numba, Python and processor; fill it with "
            "'slimsched compile --into'",
            PLACE_VARIABLE,
            os.environ[PLACE_VARIABLE],
        )
    if CACHE_DIR is None:
        log.warning(
            "compiling what decides, which takes half a minute or more at each start, because there is no directory to "
            "keep it in; give one that can be written by XDG_CACHE_HOME"
        )
        return
    log.warning(
        "compiling what decides, which takes half a minute or more, once for this version; kept in %s", CACHE_DIR
    )
    failure = await _compile_elsewhere()
    if failure is not None:
        log.warning("a process of its own could not compile (%s), so this one does, with 300 MiB more", failure)


async def compile_into(place: Path, *, is_portable: bool) -> None:
    """Fill a folder with all that decides, compiled for any processor of the architecture or for one like this.

    Who has ``SLIMSCHED_COMPILED_DIR`` set to that folder loads it from there, wherever it has been copied to. What is
    complete there already is left as it is.

    Raises:
        ConfigError: It can't be written, or compiling fails.
    """
    processor = ANY_PROCESSOR if is_portable else this_processor()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as exc:
        raise ConfigError(f"can't write {place} ({exc.strerror or exc}); give a folder that can be written") from exc
    failure = await _compile_elsewhere({PLACE_VARIABLE: str(place.absolute()), "NUMBA_CPU_NAME": processor.name})
    if failure is not None:
        raise ConfigError(f"can't compile into {place}: {failure}")


async def _compile_elsewhere(more: Mapping[str, str] | None = None) -> str | None:
    """Return why another process, of ``more`` environment, could not compile; None when it could."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", f"{_WATCH}; {_SCRIPT}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(more or {})},
        )
    except OSError as exc:
        return str(exc)
    try:
        assert process.stderr is not None
        said = await process.stderr.read()  # communicate would close its standard input
        await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode == 0:
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {process.returncode}"
