import errno
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patchlens.errors import StorageError, StudyError
from patchlens.evaluation import records
from patchlens.evaluation.records import CAPTIONS, join, made_with, open_table, save_table


def captions(*said: str) -> pa.Table:
    return pa.table({"model": ["m"] * len(said), "image": [f"{n}" for n in range(len(said))], "caption": list(said)})


def saved(folder: Path, *said: str, made: dict[str, object] | None = None) -> pa.Table:
    path = folder / f"{'-'.join(said)}.parquet"
    save_table(captions(*said), path, "captions", {"seed": 1} if made is None else made)  # type: ignore[arg-type]
    return open_table(path, "captions")


def test_saved_opened_and_joined(tmp_path: Path) -> None:
    one, two = saved(tmp_path, "a boat", "a tree"), saved(tmp_path, "a boat again")
    assert one.schema.equals(CAPTIONS)
    assert made_with(one) == {"seed": 1}
    assert join([one, two])["caption"].to_pylist() == ["a boat", "a tree", "a boat again"]
    assert pq.read_table(tmp_path / "a boat again.parquet")["model"].to_pylist() == ["m"]  # readable without us


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    table = captions("x").select(["caption", "image", "model"])
    save_table(table, tmp_path / "t.parquet", "captions", {})
    assert open_table(tmp_path / "t.parquet", "captions").column_names == CAPTIONS.names


def test_records_that_do_not_belong_together(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", made={"seed": 1, "bank": "a"})
    two = saved(tmp_path, "two", made={"seed": 1, "bank": "b"})
    with pytest.raises(StudyError, match=r"differ in bank \('a' and 'b'\)"):
        join([one, two])
    with pytest.raises(StudyError, match="no records"):
        join([])


def test_opening_what_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(StudyError, match="no such file"):
        open_table(path, "captions")
    saved(tmp_path, "t")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match="damaged or cut short"):
        open_table(path, "captions")
    path.write_bytes(whole)
    with pytest.raises(StudyError, match="kind 'captions' in format 1, where 'states'"):
        open_table(path, "states")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StudyError, match="another table"):
        open_table(path, "captions")
    about = {b"patchlens": b'{"format": 1, "kind": "captions", "made": {}}'}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(about), path)
    with pytest.raises(StudyError, match="columns are not those"):
        open_table(path, "captions")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "t")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="Make space"):
        save_table(captions("new"), tmp_path / "t.parquet", "captions", {})
    assert open_table(tmp_path / "t.parquet", "captions")["caption"].to_pylist() == ["t"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_no_torch_is_needed() -> None:
    code = f"import sys, {records.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
