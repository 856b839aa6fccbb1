"""Writing without leaving half a thing behind: a file or a folder appears whole, or not at all.

Knows nothing of what is written. Work goes to a temporary sibling (`.<name>.<pid>.tmp`), which takes the
final name in one step at the end and is removed when anything fails, Ctrl-C included. What takes hours goes to
a `Workshop`, a sibling that outlives its process.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from patchlens.errors import OptionError, StorageError
from patchlens.provenance import JSON

__all__ = [
    "Workshop",
    "cache_folder",
    "flush",
    "readable",
    "refusals",
    "replacing",
    "replacing_folder",
    "take_lock",
    "workshop",
    "write_json",
]

_LOCK = "lock"

_ADVICE = {
    errno.ENOSPC: "Make space there, or choose another disk, and run it again.",
    errno.EDQUOT: "Make space within your quota, or choose another disk, and run it again.",
    errno.EFBIG: "Choose a disk that takes files of this size, or raise the limit on it (ulimit -f), and run it again.",
    errno.EACCES: "Choose a place that you may write to, or change its permissions.",
    errno.EPERM: "Choose a place that you may write to, or change its permissions.",
    errno.EROFS: "Choose a place that you may write to.",
    errno.ENOTDIR: "Choose a path whose parents are folders.",
    errno.EEXIST: "Choose a path whose parents are folders.",
    errno.EISDIR: "Choose another name, or remove the folder that has it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EIO: "Check the disk, or choose another one.",
    errno.ENOLCK: "Choose a file system that can lock files (network file systems: see docs/large-banks.md).",
    errno.ENOTSUP: "Choose a file system that can lock files (network file systems: see docs/large-banks.md).",
}


def cache_folder() -> Path:
    """Where things that can be made again are kept.

    PATCHLENS_HOME if set, else patchlens below XDG_CACHE_HOME, else ~/.cache/patchlens.

    Raises:
        OptionError: The folder begins with the home of a user who has none here.
    """
    home = os.environ.get("PATCHLENS_HOME")
    folder = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "patchlens")
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise OptionError(
            f"Looking for the cache folder {folder}: no home folder is known for '{folder.parts[0]}'. "
            "Set PATCHLENS_HOME to a folder that you may write to."
        ) from error


@contextmanager
def refusals(path: Path, left: str = "Nothing was left behind. ") -> Iterator[None]:
    """Turn the disk's refusals (no space, no permission …) inside the block into a StorageError.

    Args:
        path: What is written.
        left: A sentence, and a space, on what there is now.

    Raises:
        StorageError: Names `path` and says what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise StorageError(
            f"Writing {path} failed: {os.strerror(error.errno)}. {left}{_ADVICE[error.errno]}"
        ) from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn a refusal to let something inside the block be read into a StorageError.

    Raises:
        StorageError: Names the file, `path` if the system does not say which.
    """
    try:
        yield
    except PermissionError as error:
        why = os.strerror(error.errno or errno.EACCES)
        raise StorageError(
            f"Reading {error.filename or path} failed: {why}. Ask for the right to read it, or use a copy of your own."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Args:
        path: The file to make or to replace; missing parent folders are made, a link is followed.

    Yields:
        A temporary path beside it, to be written in the block. It becomes `path` when the block ends well.

    Raises:
        StorageError: The disk refused.
    """
    path = _real(path)
    with refusals(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = _temporary(path)
    with refusals(path), _parents(path):
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        flush(path.parent)


@contextmanager
def replacing_folder(path: Path, *, overwrite: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Write a folder so that it appears whole or not at all.

    Args:
        path: The folder to make; missing parents are made, a link is followed. An empty folder there is taken over.
        overwrite: Replace a folder that holds something, which then stays as it was until the last moment.
        marker: With `overwrite`, replace only a folder that holds a file of this name, so that a slip of
            the pen cannot delete something else.

    Yields:
        A temporary folder beside it, to be filled in the block.

    Raises:
        OptionError: Something is in the way at `path`, at the start or by the time of the end.
        StorageError: The disk refused.
    """
    path = _real(path)
    with refusals(path):
        _refuse_to_replace(path, overwrite, marker)
    temporary = _temporary(path)
    with refusals(path), _parents(path):
        try:
            if temporary.exists():  # left by a killed process whose number we now have
                shutil.rmtree(temporary)
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                flush(file)
            _swap(temporary, path, overwrite, marker)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush(path.parent)


@dataclass(frozen=True)
class Workshop:
    """Where a folder is made that takes hours: a sibling which outlives its process, and by which work goes on."""

    path: Path
    """What is being made; links are followed."""
    mine: bool
    """Whether this process is in it; otherwise another one is."""

    @property
    def folder(self) -> Path:
        """Holds all that there is so far."""
        return self.path.with_name(f".{self.path.name}.build")

    @property
    def replaced(self) -> Path:
        """What stood at `path` before, while the new one takes its place."""
        return self.folder / "replaced"

    def check(self, *, overwrite: bool, marker: str) -> None:
        """Make sure that the folder may take its place.

        Raises:
            OptionError: Something is in the way, see `replacing_folder`.
            StorageError: The disk refused.
        """
        with refusals(self.path):
            _refuse_to_replace(self.path, overwrite, marker)

    def holder(self) -> str:
        """Who has the lock, as far as it says so: "process 123 on host"."""
        with suppress(OSError):
            return (self.folder / _LOCK).read_text(encoding="utf-8").strip() or "another process"
        return "another process"

    def put(self, made: Path, *, overwrite: bool, marker: str) -> None:
        """Give a finished folder its place. When the process dies between two steps, `workshop` repairs it.

        Args:
            made: Inside `folder`; all that it holds has been flushed.
            overwrite: As in `replacing_folder`.
            marker: As in `replacing_folder`.

        Raises:
            OptionError: Something is in the way by now.
        """
        flush(made)
        try:
            os.rename(made, self.path)  # takes over an empty folder too
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _refuse_to_replace(self.path, overwrite, marker)
            shutil.rmtree(self.replaced, ignore_errors=True)
            os.rename(self.path, self.replaced)
            os.rename(made, self.path)
        flush(self.path.parent)
        flush(self.folder)

    def clear(self, first: str | None = None) -> None:
        """Remove all but the lock.

        Args:
            first: A file by which others know what is there; it goes first.
        """
        if first is not None:
            (self.folder / first).unlink(missing_ok=True)
        for entry in sorted(self.folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()


@contextmanager
def workshop(path: Path) -> Iterator[Workshop]:
    """Work on a folder that takes hours, in a sibling that is left as it is when the block ends or the process dies.

    Args:
        path: The folder to make; missing parents are made, a link is followed.

    Yields:
        The workshop; whether it is this process's alone, `mine` says. When it is empty at the end, it is removed, and
        so are parents that were made with it.

    Raises:
        OptionError: The path is no name of a folder.
        StorageError: The disk refused.
    """
    shop = Workshop(_real(path), mine=True)
    if not shop.path.name:
        raise OptionError(f"Making the folder {path}: it is the root of the file system. Name a new folder in it.")
    with refusals(shop.path, left=""), _parents(shop.path):
        handle = _enter(shop)
        if handle is None:
            yield replace(shop, mine=False)
            return
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            if shop.replaced.exists() and not shop.path.exists():  # a process died between the two
                os.rename(shop.replaced, shop.path)
            yield shop
        finally:
            try:
                if [entry.name for entry in shop.folder.iterdir()] == [_LOCK]:
                    (shop.folder / _LOCK).unlink()
                    with suppress(OSError):  # the next one has come in meanwhile
                        shop.folder.rmdir()
            finally:
                os.close(handle)


def _enter(shop: Workshop) -> int | None:
    while True:
        shop.folder.mkdir(parents=True, exist_ok=True)
        try:
            return take_lock(shop.folder / _LOCK)
        except FileNotFoundError:  # the one before us has just removed the folder
            continue


def take_lock(path: Path, *, make: bool = True) -> int | None:
    """Lock a file, until the handle is closed or the process ends, however it ends.

    Args:
        path: The file.
        make: Make it if it is missing.

    Returns:
        The open file; None if someone else has the lock.

    Raises:
        FileNotFoundError: It is missing and is not to be made, or its folder is missing.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is(handle: int, path: Path) -> bool:
    """Whether an open file still has its name: a lock on one that was removed keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_json(path: Path, obj: JSON) -> None:
    """Write a value as indented JSON in UTF-8, whole or not at all; equal values give equal bytes.

    Raises:
        StorageError: The disk refused.
    """
    text = json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _real(path: Path) -> Path:
    # Not Path.resolve, which raises for links in a circle. A name such as "." has no siblings, and a link to a folder
    # cannot be renamed over.
    return Path(os.path.realpath(path))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the parent folders; on failure, remove those that were made and are still empty."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()
        raise


def _refuse_to_replace(path: Path, overwrite: bool, marker: str | None) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise OptionError(f"Making the folder {path}: a file of that name is in the way. Choose another name.")
    if path == Path.cwd():
        raise OptionError(f"Making the folder {path}: it is the current folder. Name a new folder inside it.")
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise OptionError(
            f"Making the folder {path}: it exists and is not empty. "
            "Choose another name, or ask for it to be overwritten."
        )
    if marker is not None and not (path / marker).is_file():
        raise OptionError(
            f"Overwriting the folder {path}: it holds no {marker}, so it is not what it would be replaced by. "
            "Choose another name, or remove the folder yourself."
        )


def _swap(temporary: Path, path: Path, overwrite: bool, marker: str | None) -> None:
    """Give the new folder its name, keeping what had it until the new one stands."""
    try:
        os.rename(temporary, path)  # takes over an empty folder too
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _refuse_to_replace(path, overwrite, marker)
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        os.rename(path, old)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):  # nothing was moved yet, or something stands there again, ours or another process's
            os.rename(old, path)
        raise
    finally:
        if path.exists():  # or else the old one is the only one
            shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Make sure that a file or a folder's entries are on the disk before they are counted on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)
