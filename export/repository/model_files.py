"""A model repository on disk, in Triton's layout: written a family at a time, each model atomically, and idempotently.

A model is staged whole in a folder beside the repository, flushed to disk, and then swapped into its place: by a
rename when the place is free, else by ``renameat2(RENAME_EXCHANGE)``, one atomic step of the kernel. A crash at any
point leaves the old or the new model whole.

Two alternatives were refused. Replacing file by file lets a server pair the old configuration with new weights.
Staging inside the repository shows the unfinished model to Triton, which takes every sub-folder, hidden ones
too, for a model; it remains the fallback when the parent folder lies on another file system or can't be written.
Where the kernel or the file system has no exchange (not Linux, some network file systems), two renames are
made instead; a crash between them leaves no model in the place but both whole in the staging folder, from where
the next export puts the old one back.

Files that are equal already are not touched, so their times stay and Triton sees no change. Files that an export
did not write are never deleted: a model folder that holds any is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from export.errors import RepositoryError

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "1/model.onnx"
LABELS_FILE = "labels.txt"
WARMUP_FILE = "warmup/item_{}"
"""Of an input, by its place, because its name may be none of a file; only some models have any."""

Files = Mapping[str, bytes]
"""What a model folder holds, by path relative to it."""

Swap = Callable[[Path, Path], None]
"""Lets two folders change places."""

_ASIDE = "old"
_RENAME_EXCHANGE = 2  # <linux/fs.h>
_AT_FDCWD = -100  # <fcntl.h>
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})
_NOT_HERE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})


def render_labels(labels: tuple[str, ...]) -> str:
    """Return ``labels.txt``: a label a line, as Triton's classification extension reads it."""
    return "".join(f"{' '.join(label.split())}\n" for label in labels)


def write_models(repository: Path, models: Mapping[str, Files], *, swap: Swap | None = None) -> dict[str, bool]:
    """Make the repository hold exactly these models, all or none; return which of them had to be written.

    All are staged before the first is swapped in, which is where disks get full, and an error or interrupt after that
    swaps those before it back. Only a crash between two swaps leaves some new and some old, each of them whole.

    Args:
        repository: The folder of the repository; made if it is not there.
        models: Files by relative path, by the name of the model's folder.
        swap: How an old and a new folder change places; ``exchange`` if not given.

    Raises:
        RepositoryError: when the place can't be written or holds files of somebody else; nothing has changed then.
    """
    is_new = not repository.exists()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository):
            for stage in leftovers(repository):
                _discard(stage, repository)
            changed = {name: files for name, files in models.items() if _is_other(repository / name, files)}
            if changed:
                _replace_all(repository, changed, swap or exchange)
    except OSError as exc:
        if is_new:
            with contextlib.suppress(OSError):  # not empty, or never made
                repository.rmdir()
        raise RepositoryError(
            f"can't write {repository} ({exc.strerror or exc}); free space or choose another --repository"
        ) from exc
    return {name: name in changed for name in models}


def require_writable(repository: Path) -> None:
    """Raise RepositoryError, before the long work, for a place that plainly can't be written after it.

    It can't when the repository, or the nearest folder above it that exists, is a file or read-only.
    """
    nearest = next(path for path in (repository.absolute(), *repository.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise RepositoryError(
            f"can't write {repository} ({nearest} is a file or read-only); choose another --repository"
        )


def _is_other(target: Path, files: Files) -> bool:
    """Return whether a model folder holds something else than ``files``; refuse one that holds somebody else's."""
    found = read_model(target)
    unread = {str(p.relative_to(target)) for p in target.rglob("*") if not (p.is_file() or _holds_more(p))}
    older = {WARMUP_FILE.format(place) for place in range(len(found))}  # that another import may have written
    if b"slim.labels" in found.get(CONFIG_FILE, b""):
        older.add(LABELS_FILE)
    foreign = sorted((found.keys() | unread) - files.keys() - older)
    if foreign:
        raise RepositoryError(
            f"{target} holds {foreign[0]}, which no export wrote; move it away or choose another --family"
        )
    return found != dict(files)


def _holds_more(path: Path) -> bool:
    """Return whether a path is a folder that is looked into; what a link leads to is not, and Triton serves it."""
    return path.is_dir() and not path.is_symlink() and any(path.iterdir())


def read_model(folder: Path) -> dict[str, bytes]:
    """Return the files of a model folder by relative path; empty when it does not exist."""
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder", str(folder))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(repository: Path) -> list[Path]:
    """Return the staging folders beside and in ``repository``, left by a crashed export unless one is running."""
    pattern = f"{glob.escape(_prefix(repository))}*"
    return [path for home in _homes(repository) for path in sorted(home.glob(pattern))]


def is_being_written(repository: Path) -> bool:
    """Return whether an export is writing it just now, as far as its file system knows of locks."""
    handle = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno == errno.EWOULDBLOCK
    finally:
        os.close(handle)
    return False


def other_widths(repository: Path, family: str, names: Collection[str]) -> list[str]:
    """Return the models of a family that are in a repository beside those of these names."""
    found = repository.glob(f"{glob.escape(family)}_w[0-9][0-9][0-9]/{CONFIG_FILE}")
    return sorted(path.parent.name for path in found if path.parent.name not in names)


def exchange(first: Path, second: Path) -> None:
    """Swap two paths of one file system in one atomic step; raises OSError when kernel or file system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "this C library has no renameat2") from None
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first))


def swap_by_renames(first: Path, second: Path) -> None:
    """Swap two folders with renames: what ``exchange`` does, with a moment in which ``second`` is missing."""
    aside = first.parent / _ASIDE / second.name
    aside.parent.mkdir(exist_ok=True)
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except BaseException:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def _homes(repository: Path) -> tuple[Path, Path]:
    """Return the folders in which models may be staged, best first."""
    return (repository.resolve().parent, repository.resolve())


def _prefix(repository: Path) -> str:
    return f".{repository.resolve().name}.partial-"


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Keep other exports out, so that every staging folder seen inside is a dead one's."""
    handle = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(
            OSError
        ):  # some network file systems lock no folders: exports there are not kept apart
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace_all(repository: Path, models: Mapping[str, Files], swap: Swap) -> None:
    for home in _homes(repository):
        stage: Path | None = None
        try:
            stage = Path(tempfile.mkdtemp(prefix=_prefix(repository), dir=home))
            for name, files in models.items():
                _write_files(stage / name, files)
                _inherit_group(stage / name, repository)
            _put_all(stage, repository, list(models), swap)
            return
        except OSError as exc:
            if home == repository.resolve() or exc.errno not in _NOT_HERE:
                raise
        finally:
            if stage is not None:
                _discard(stage, repository)


def _put_all(stage: Path, repository: Path, names: list[str], swap: Swap) -> None:
    """Move staged models into their places; when one can't be, those before it go back."""
    done: list[tuple[str, bool]] = []
    try:
        for name in names:
            is_old = (repository / name).exists()
            _put(stage / name, repository / name, swap)
            done.append((name, is_old))
    except BaseException:
        for name, is_old in reversed(done):
            if is_old:
                _put(stage / name, repository / name, swap)
            else:
                os.rename(repository / name, stage / name)
        raise


def _discard(stage: Path, repository: Path) -> None:
    """Remove a staging folder, after putting back a model that was taken out of its place and not replaced."""
    for old in sorted(stage.glob(f"{_ASIDE}/*")):
        if not (repository / old.name).exists():
            os.rename(old, repository / old.name)
    shutil.rmtree(stage, ignore_errors=True)


def _put(staged: Path, target: Path, swap: Swap) -> None:
    """Move a staged model into its place; an older one ends up where the new one was staged."""
    if not target.exists():
        os.rename(staged, target)
    else:
        try:
            swap(staged, target)
        except OSError as exc:
            if exc.errno not in _NO_EXCHANGE:
                raise
            swap_by_renames(staged, target)
    _sync(target.parent)


def _write_files(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
    for directory in {(folder / name).parent for name in files} | {folder, folder.parent}:
        _sync(directory)


def _inherit_group(folder: Path, repository: Path) -> None:
    """Give a staged model the group that it would have had, had it been made in a repository with the setgid bit."""
    wanted = repository.stat()
    if not wanted.st_mode & stat.S_ISGID:
        return
    for path in (folder, *folder.rglob("*")):
        found = path.stat()
        if found.st_gid != wanted.st_gid:
            os.chown(path, -1, wanted.st_gid)
        if path.is_dir() and not found.st_mode & stat.S_ISGID:
            path.chmod(stat.S_IMODE(found.st_mode) | stat.S_ISGID)


def _sync(directory: Path) -> None:
    """Flush a folder's entries; a rename is lost in a power cut otherwise."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
