import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from patchlens.errors import OptionError, StorageError
from patchlens.storage import (
    cache_folder,
    readable,
    replacing,
    replacing_folder,
    take_lock,
    workshop,
    write_json,
)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_stop(temporary: Path, stop: type[BaseException]) -> None:
    temporary.write_text("half")
    raise stop


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert left(path.parent) == ["file.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(stop), replacing(path) as temporary:
        write_and_stop(temporary, stop)
    assert path.read_text() == "old"
    assert left(tmp_path) == ["file.txt"]


def test_a_failure_takes_the_folders_that_were_made_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), replacing(tmp_path / "a" / "b" / "file"):
        raise ValueError("stop")
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_refuses_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    refuse(monkeypatch, function, number)
    with pytest.raises(StorageError, match=r"file\.json.*failed") as caught:
        write_json(tmp_path / "file.json", {})
    assert os.strerror(number) in str(caught.value)
    assert left(tmp_path) == []


def test_other_failures_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        (tmp_path / "elsewhere").read_text()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="parents are folders"):
        write_json(tmp_path / "file" / "inside.json", {})


def test_json_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"word": "Käse", "numbers": [1, 2.5, None]})
    write_json(tmp_path / "b.json", {"word": "Käse", "numbers": [1, 2.5, None]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"word": "Käse", "numbers": [1, 2.5, None]}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with replacing_folder(path) as temporary:
        (temporary / "file").write_text("whole")
        assert not path.exists()
    assert left(path) == ["file"]
    assert left(tmp_path / "deep") == ["folder"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_folder(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), replacing_folder(tmp_path / "deep" / "folder") as temporary:
        write_and_stop(temporary / "file", stop)
    assert left(tmp_path) == []


def test_an_empty_folder_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("new")
    assert left(tmp_path / "folder") == ["file"]


def test_a_full_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    with pytest.raises(OptionError, match="not empty"), replacing_folder(tmp_path / "folder"):
        pytest.fail("the body must not run")
    (tmp_path / "file").write_text("old")
    with pytest.raises(OptionError, match="in the way"), replacing_folder(tmp_path / "file"):
        pytest.fail("the body must not run")
    assert left(tmp_path) == ["file", "folder"]


def test_overwriting_replaces_only_what_has_the_marker(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "holiday.jpg").write_text("old")
    with (
        pytest.raises(OptionError, match=r"no bank\.json"),
        replacing_folder(folder, overwrite=True, marker="bank.json"),
    ):
        pytest.fail("the body must not run")
    (folder / "bank.json").write_text("old")
    with replacing_folder(folder, overwrite=True, marker="bank.json") as temporary:
        (temporary / "bank.json").write_text("new")
        assert (folder / "bank.json").read_text() == "old"
    assert (folder / "bank.json").read_text() == "new"
    assert left(folder) == ["bank.json"]
    assert left(tmp_path) == ["folder"]


def test_a_failure_while_overwriting_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename, calls = os.rename, []

    def third_fails(*paths: Path) -> None:  # in place (refused), the old one aside, in place
        calls.append(paths)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "full")
        rename(*paths)

    monkeypatch.setattr(os, "rename", third_fails)
    with (
        pytest.raises(StorageError, match="No space left"),
        replacing_folder(folder, overwrite=True) as temporary,
    ):
        (temporary / "file").write_text("new")
    assert (folder / "file").read_text() == "old"
    assert left(tmp_path) == ["folder"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])  # in place (refused), the old one aside, in place
def test_an_interruption_while_overwriting_leaves_one_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, moment: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename, calls = os.rename, []

    def interrupted(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == call and moment == "before":
            raise KeyboardInterrupt
        try:
            rename(*paths)
        finally:
            if len(calls) == call:
                raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "file").write_text("new")
    assert (folder / "file").read_text() == ("new" if (call, moment) == (3, "after") else "old")
    assert left(tmp_path) == ["folder"]


def test_the_old_folder_is_kept_where_it_cannot_be_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename, calls = os.rename, []

    def refused(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) > 2:
            raise OSError(errno.EIO, "broken")
        rename(*paths)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(StorageError), replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "file").write_text("new")
    (kept,) = tmp_path.iterdir()
    assert (kept / "file").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("."), tmp_path):
        with pytest.raises(OptionError, match="current folder"), replacing_folder(path, overwrite=overwrite):
            pytest.fail("the body must not run")


@pytest.mark.parametrize("path", [".", "..", "/", "folder"])
def test_a_file_where_a_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="remove the folder"), replacing(Path(path)):
        pytest.fail("the body must not run")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with replacing_folder(tmp_path / "link") as temporary:
        (temporary / "file").write_text("new")
    (tmp_path / "file").symlink_to(tmp_path / "disk" / "file")
    write_json(tmp_path / "file", 7)
    assert (tmp_path / "disk" / "file").read_text() == "7\n"
    assert left(tmp_path) == ["disk", "file", "link"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("writing", [replacing, replacing_folder])
def test_names_that_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    with pytest.raises(StorageError, match="shorter name"), writing(tmp_path / ("a" * 300)):
        pytest.fail("the body must not run")
    refuse(monkeypatch, "stat", errno.EACCES)
    with pytest.raises(StorageError, match="may write"), writing(tmp_path / "name"):
        pytest.fail("the body must not run")


def test_the_second_of_two_at_once_gives_way(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def another_process_is_faster() -> None:
        folder.mkdir()
        (folder / "file").write_text("first")

    with pytest.raises(OptionError, match="not empty"), replacing_folder(folder):
        another_process_is_faster()
    assert (folder / "file").read_text() == "first"
    assert left(tmp_path) == ["folder"]


def test_a_folder_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "mkdir", errno.EACCES)
    with (
        pytest.raises(StorageError, match="may write"),
        replacing_folder(tmp_path / "deep" / "folder"),
    ):
        pytest.fail("the body must not run")
    assert left(tmp_path) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("PATCHLENS_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/patchlens")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/patchlens")
    monkeypatch.setenv("PATCHLENS_HOME", "~/lens")
    assert cache_folder() == Path("/home/somebody/lens")
    monkeypatch.setenv("PATCHLENS_HOME", "~nobody-of-this-name/lens")
    with pytest.raises(OptionError, match="no home folder is known for '~nobody-of-this-name'"):
        cache_folder()


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Reading .*secret.*Permission denied"), readable(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "secret"))
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))), readable(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(FileNotFoundError), readable(tmp_path):
        raise FileNotFoundError


def in_another_process(code: str, *arguments: object) -> str:
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_workshop_outlives_its_block_while_it_holds_something(tmp_path: Path) -> None:
    with workshop(tmp_path / "deep" / "bank") as shop:
        assert shop.mine
        assert shop.folder == tmp_path / "deep" / ".bank.build"
        (shop.folder / "half").write_text("work")
    with pytest.raises(ValueError, match="stop"), workshop(tmp_path / "deep" / "bank"):
        raise ValueError("stop")
    with workshop(tmp_path / "deep" / "bank") as shop:
        assert (shop.folder / "half").read_text() == "work"
        shop.clear(first="half")
    assert left(tmp_path / "deep") == []


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_empty_workshop_goes_with_its_parents_when_the_block_fails(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    with pytest.raises(stop), workshop(tmp_path / "deep" / "bank"):
        raise stop
    assert left(tmp_path) == []


def test_a_workshop_is_for_one_at_a_time(tmp_path: Path) -> None:
    with workshop(tmp_path / "bank") as shop:
        with workshop(tmp_path / "bank") as second:
            assert not second.mine
            assert second.holder() == shop.holder() == f"process {os.getpid()} on {socket.gethostname()}"
        code = """
            import sys
            from pathlib import Path
            from patchlens.storage import workshop
            with workshop(Path(sys.argv[1])) as shop:
                print(shop.mine)
            """
        assert in_another_process(code, tmp_path / "bank") == "False\n"
    assert in_another_process(code, tmp_path / "bank") == "True\n"
    assert left(tmp_path) == []


def test_a_folder_is_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    with workshop(tmp_path / "bank") as shop:
        (shop.folder / "made").mkdir()
        (shop.folder / "made" / "bank.json").write_text("new")
        shop.put(shop.folder / "made", overwrite=False, marker="bank.json")
        assert left(shop.folder) == ["lock"]
    with workshop(tmp_path / "bank") as shop:
        (shop.folder / "made").mkdir()
        with pytest.raises(OptionError, match="not empty"):
            shop.put(shop.folder / "made", overwrite=False, marker="bank.json")
        assert (tmp_path / "bank" / "bank.json").read_text() == "new"
        shop.put(shop.folder / "made", overwrite=True, marker="bank.json")
        assert left(tmp_path / "bank") == []
        shop.clear()
    assert left(tmp_path) == ["bank"]


def test_what_stood_there_comes_back_when_the_process_died_between_two_renames(tmp_path: Path) -> None:
    with workshop(tmp_path / "bank") as shop:
        shop.replaced.mkdir()
        (shop.replaced / "bank.json").write_text("old")
    with workshop(tmp_path / "bank") as shop:
        assert (tmp_path / "bank" / "bank.json").read_text() == "old"
    assert left(tmp_path) == ["bank"]


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="root of the file system"), workshop(Path("/")):
        pytest.fail("the body must not run")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="parents are folders"), workshop(tmp_path / "file" / "bank"):
        pytest.fail("the body must not run")


def test_a_file_system_that_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(StorageError, match="can lock files"), workshop(tmp_path / "bank"):
        pytest.fail("the body must not run")


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, who had it before removes it and someone else makes it anew."""
    path, real, removed = tmp_path / "lock", fcntl.flock, []

    def slow(*arguments: int) -> None:
        if not removed:
            removed.append(path.unlink())
        real(*arguments)

    monkeypatch.setattr("fcntl.flock", slow)
    handle = take_lock(path)
    assert os.path.samestat(os.fstat(handle), path.stat())
    assert take_lock(path) is None
    os.close(handle)
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "other", make=False)
