"""Writing without leaving half a thing behind: a file or a folder appears whole, or not at all.

Knows nothing of what is written. Work goes to a temporary sibling (`.<name>.<pid>.tmp`), which takes the
final name in one step at the end and is removed when anything fails, Ctrl-C included.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patchlens.errors import OptionError, StorageError
from patchlens.provenance import JSON

__all__ = ["cache_folder", "readable", "refusals", "replacing", "replacing_folder", "write_json"]

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
def refusals(path: Path) -> Iterator[None]:
    """Turn the disk's refusals (no space, no permission …) inside the block into a StorageError.

    Raises:
        StorageError: Names `path` and says what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise StorageError(
            f"Writing {path} failed: {os.strerror(error.errno)}. Nothing was left behind. {_ADVICE[error.errno]}"
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
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush(path.parent)


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
                _flush(file)
            _swap(temporary, path, overwrite, marker)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush(path.parent)


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


def _flush(path: Path) -> None:
    """Make sure that a file or a folder's entries are on the disk before they are counted on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)
