import errno
import os
import random
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchlens.bank import format as layout
from patchlens.bank.format import DTYPES, Encoded, Manifest, Mapped, Table, VectorFiles, encode
from patchlens.errors import BankCorrupt, BankNotFound
from patchlens.provenance import Provenance

PROVENANCE = Provenance("bank", "tiny", None, "abc", "def", {"torch": "2"}, {"seed": 0})
LAYERS = (2, 11)


def manifest(folder: Path, rows: int, d_model: int, dtype: str) -> Manifest:
    return Manifest(PROVENANCE, {"sentences": 1}, LAYERS, d_model, dtype, rows, layout.describe(folder))


def encoded(rows: int, d_model: int, dtype: str, seed: int = 0) -> dict[int, Encoded]:
    generator = torch.Generator().manual_seed(seed)
    made = {layer: torch.randn(rows, d_model, generator=generator) for layer in LAYERS}
    return {layer: encode(torch.nn.functional.normalize(vectors, dim=-1), dtype) for layer, vectors in made.items()}


def written(folder: Path, shard_rows: Sequence[int], d_model: int, dtype: str) -> dict[int, Encoded]:
    """The files of two layers, each written at once."""
    rows = encoded(sum(shard_rows), d_model, dtype)
    files = VectorFiles.create(folder, LAYERS, shard_rows, d_model, dtype)
    for layer, those in rows.items():
        files.write(layer, 0, those)
    files.flush()
    return rows


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_rows", [(40,), (7, 1, 20, 12)])
@pytest.mark.parametrize("d_model", [5, 64])
def test_vectors_survive_the_disk(tmp_path: Path, dtype: str, shard_rows: tuple[int, ...], d_model: int) -> None:
    expected = written(tmp_path, shard_rows, d_model, dtype)
    shards = layout.checked_shards(tmp_path, manifest(tmp_path, 40, d_model, dtype))
    for layer, rows in expected.items():
        assert [shard.rows for shard in shards[layer]] == list(shard_rows)
        assert [shard.start for shard in shards[layer]] == [0, *accumulate(shard_rows)][:-1]
        for shard in shards[layer]:
            mapped, part = Mapped(shard, d_model, dtype).encoded, rows[shard.start : shard.start + shard.rows]
            assert same(mapped.vectors, part.vectors)
            assert mapped.vectors.data_ptr() % 64 == 0, "rows start on a cache line"
            library = load_file(shard.path)  # the library of the format reads the same
            assert same(library["vectors"], part.vectors)
            assert set(library) == ({"vectors"} if part.scales is None else {"scales", "vectors"})
            if part.scales is not None:
                assert mapped.scales is not None
                assert torch.equal(mapped.scales, part.scales)
                assert torch.equal(library["scales"], part.scales)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_bytes_are_the_same_whatever_the_order_and_by_whomever(
    dtype: str, shard_rows: list[int], d_model: int, seed: int
) -> None:
    rows = encoded(sum(shard_rows), d_model, dtype, seed)
    rng = random.Random(seed)
    cuts = sorted({0, sum(shard_rows), *(rng.randint(0, sum(shard_rows)) for _ in range(5))})
    parts = [(layer, *cut) for layer in LAYERS for cut in pairwise(cuts)]
    rng.shuffle(parts)
    with TemporaryDirectory() as one, TemporaryDirectory() as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # waiting for the disk is not what is tested here
        whole = VectorFiles.create(Path(one), LAYERS, shard_rows, d_model, dtype)
        for layer, those in rows.items():
            whole.write(layer, 0, those)
        whole.flush()
        handles = [VectorFiles.create(Path(other), LAYERS, shard_rows, d_model, dtype)]
        handles.append(VectorFiles.reopen(Path(other), LAYERS, shard_rows, d_model, dtype))
        for layer, start, stop in parts:
            if rng.random() < 0.2:  # written before, by one that was killed
                rng.choice(handles).write(layer, start, rows[layer][start:stop])
            writer = rng.choice(handles)
            writer.write(layer, start, rows[layer][start:stop])
            if rng.random() < 0.3:
                rng.choice([writer.flush, writer.close])()
        for handle in handles:
            handle.flush()
        assert content(Path(one)) == content(Path(other))


def test_names_sort_as_rows_do(tmp_path: Path) -> None:
    written(tmp_path, (10, 10, 10), 4, "float16")
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names[:3] == [f"layer_02-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert names[3:] == [f"layer_11-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_space_is_taken_before_a_row_is_written(tmp_path: Path, dtype: str) -> None:
    VectorFiles.create(tmp_path, LAYERS, (1000, 500), 64, dtype)
    for path in tmp_path.iterdir():
        about = path.stat()
        rows = 1000 if "00001-of" in path.name else 500
        assert about.st_size - rows * layout.row_bytes(64, dtype) in range(100, 300)  # the header
        assert about.st_blocks * 512 >= about.st_size, "not a sparse file"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, None])
def test_a_system_that_cannot_set_space_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    usual, plain = tmp_path / "usual", tmp_path / "plain"
    usual.mkdir()
    plain.mkdir()
    written(usual, (50_000, 3), 16, "float16")

    def refuse(*_: object) -> None:
        raise OSError(number, "not supported")

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    written(plain, (50_000, 3), 16, "float16")
    assert content(plain) == content(usual)
    assert all(path.stat().st_blocks * 512 >= path.stat().st_size for path in plain.iterdir())


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        VectorFiles.create(tmp_path, LAYERS, (10,), 8, "float16")


def test_writing_holds_few_files_open_and_maps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_OPEN_FILES", 3)
    rows = encoded(40, 8, "float16")
    before = len(os.listdir("/proc/self/fd"))
    files = VectorFiles.create(tmp_path, LAYERS, [2] * 20, 8, "float16")
    for at in range(0, 40, 2):
        for layer, those in rows.items():
            files.write(layer, at, those[at : at + 2])
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before
    shards = layout.checked_shards(tmp_path, manifest(tmp_path, 40, 8, "float16"))[2]
    assert same(torch.cat([Mapped(s, 8, "float16").encoded.vectors for s in shards]), rows[2].vectors)


def test_a_flush_waits_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encoded(30, 4, "float16")
    files = VectorFiles.create(tmp_path, LAYERS, (10, 10, 10), 4, "float16")
    flushed: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (flushed.append(os.readlink(f"/proc/self/fd/{d}")), real(d)))
    files.write(11, 5, rows[11][5:25])
    files.flush()
    assert sorted(Path(name).name for name in flushed) == [f"layer_11-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    files.flush()
    assert len(flushed) == 3


def test_the_system_may_take_less_than_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, slow = tmp_path / "usual", tmp_path / "slow"
    usual.mkdir()
    slow.mkdir()
    written(usual, (9, 4), 8, "int8")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:5], offset))
    written(slow, (9, 4), 8, "int8")
    assert content(slow) == content(usual)


@pytest.mark.parametrize(
    ("layer", "start", "rows"),
    [
        (3, 0, encode(torch.eye(4), "float16")),
        (2, -1, encode(torch.eye(4), "float16")),
        (2, 7, encode(torch.eye(4), "float16")),
        (2, 0, encode(torch.eye(5), "float16")),
        (2, 0, encode(torch.eye(4), "bfloat16")),
        (2, 0, encode(torch.eye(4), "int8")),
    ],
)
def test_rows_of_other_files_are_refused(tmp_path: Path, layer: int, start: int, rows: Encoded) -> None:
    files = VectorFiles.create(tmp_path, LAYERS, (8, 2), 4, "float16")
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"Writing rows {start} to {start + len(rows)} of layer {layer}"):
        files.write(layer, start, rows)
    files.flush()
    assert content(tmp_path) == before


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("fault", ["cut", "longer", "missing", "header", "shards", "width", "type"])
def test_what_was_laid_out_otherwise_is_not_gone_on_with(tmp_path: Path, dtype: str, fault: str) -> None:
    arguments = {"shard_rows": (6, 4), "d_model": 4, "dtype": dtype}
    VectorFiles.create(tmp_path, LAYERS, **arguments)
    VectorFiles.reopen(tmp_path, LAYERS, **arguments)
    path = tmp_path / "layer_11-00002-of-00002.safetensors"
    whole = path.read_bytes()
    damaged = {"cut": whole[:-1], "longer": whole + b"\0", "header": whole.replace(b'"vectors"', b'"VECTORS"')}
    if fault in damaged:
        path.write_bytes(damaged[fault])
    elif fault == "missing":
        path.unlink()
    arguments |= {"shards": {"shard_rows": (4, 6)}, "width": {"d_model": 5}, "type": {"dtype": "float8_e4m3fn"}}.get(
        fault, {}
    )
    with pytest.raises(BankCorrupt, match=r"Resuming the bank .*-of-00002\.safetensors"):
        VectorFiles.reopen(tmp_path, LAYERS, **arguments)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_reading_needs_no_permission_to_write_and_writes_nothing(tmp_path: Path, dtype: str) -> None:
    written(tmp_path, (4,), 4, dtype)
    shard = layout.checked_shards(tmp_path, manifest(tmp_path, 4, 4, dtype))[2][0]
    before = shard.path.read_bytes()
    shard.path.chmod(0o444)
    mapped = Mapped(shard, 4, dtype)
    mapped.encoded.vectors.zero_()  # a mapping of our own: the file stays as it was
    assert shard.path.read_bytes() == before


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_blocks_hold_no_more_than_they_say(tmp_path: Path, dtype: str) -> None:
    """Blocks that were used are not this process's memory any more; used again, they are what they were."""
    rows, d_model = 80_000, 256
    written(tmp_path, (rows,), d_model, dtype)
    shard = layout.checked_shards(tmp_path, manifest(tmp_path, rows, d_model, dtype))[2][0]
    mapped = Mapped(shard, d_model, dtype)
    sums = []
    for start, encoded in mapped.blocks(1000):
        sums.append(int(encoded.vectors.view(torch.uint8).sum(dtype=torch.long)))
        assert start == 1000 * (len(sums) - 1)
        assert resident(shard.path) < 8 << 20, "of 20 or 40 MB"
    whole = mapped.encoded.vectors.view(torch.uint8).reshape(80, -1).sum(dim=1, dtype=torch.long)
    assert whole.tolist() == sums
    assert resident(shard.path) > 16 << 20


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            found = line.endswith(str(path))
        elif found and name == "Rss:":
            total += 1024 * int(values[0])
    return total


@pytest.mark.parametrize("change", ["touched", "cut", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_mapped(tmp_path: Path, change: str) -> None:
    written(tmp_path, (4,), 4, "float16")
    shard = layout.checked_shards(tmp_path, manifest(tmp_path, 4, 4, "float16"))[2][0]
    mapped = Mapped(shard, 4, "float16")
    assert not mapped.changed
    match change:
        case "touched":
            with shard.path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
            os.utime(shard.path, ns=(1, 1))
        case "cut":
            os.truncate(shard.path, shard.path.stat().st_size - 2)
        case "replaced":
            (tmp_path / "new").write_bytes(shard.path.read_bytes())
            (tmp_path / "new").replace(shard.path)
        case "removed":
            shard.path.unlink()
    assert mapped.changed


def test_the_manifest_survives_the_disk(tmp_path: Path) -> None:
    written(tmp_path, (4,), 4, "float16")
    said = manifest(tmp_path, 4, 4, "float16")
    layout.write_manifest(tmp_path, said)
    assert layout.read_manifest(tmp_path) == said


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BankNotFound, match=r"holds no bank\.json"):
        layout.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "tensors", "told"),
    [
        ("float16", {"vectors": torch.zeros(4, 3)}, "'dtype': 'F32'"),
        ("float16", {"vectors": torch.zeros(4, 6).half()}, r"'shape': \[4, 6\].*expected.*'shape': \[4, 3\]"),
        ("float16", {"vectors": torch.zeros(3, 3).half()}, "has 3 rows, expected 4"),
        ("float16", {"other": torch.zeros(4, 3).half()}, "no safetensors header with 'vectors'"),
        ("float16", {"vectors": torch.tensor(1.0).half()}, "no safetensors header with 'vectors'"),
        ("int8", {"vectors": torch.zeros(4, 3).char()}, "expected.*'scales'"),
        ("int8", {"vectors": torch.zeros(4, 3).char(), "scales": torch.ones(5)}, r"'shape': \[5\].*'shape': \[4\]"),
        ("float16", {"vectors": torch.zeros(4, 3).half(), "scales": torch.ones(4)}, "says.*'scales'"),
    ],
)
def test_a_vector_file_that_is_another(tmp_path: Path, dtype: str, tensors: dict[str, Tensor], told: str) -> None:
    written(tmp_path, (4,), 3, dtype)
    save_file(tensors, tmp_path / "layer_02-00001-of-00001.safetensors")
    with pytest.raises(BankCorrupt, match=told):
        layout.checked_shards(tmp_path, manifest(tmp_path, 4, 3, dtype))


@pytest.mark.parametrize("text", [b"\xff" * 64, b"", b"[]", b'{"vectors": {"shape": ["4", 3]}}', b'{"vectors": 4}'])
def test_a_vector_file_that_is_no_safetensors(tmp_path: Path, text: bytes) -> None:
    written(tmp_path, (4,), 3, "float16")
    path = tmp_path / "layer_02-00001-of-00001.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(BankCorrupt, match="no safetensors header"):
        layout.checked_shards(tmp_path, manifest(tmp_path, 4, 3, "float16"))


def test_a_layer_without_all_its_files(tmp_path: Path) -> None:
    written(tmp_path, (10, 10, 10), 4, "float16")
    (tmp_path / "layer_11-00002-of-00003.safetensors").unlink()
    with pytest.raises(BankCorrupt, match="lists 2 vector files of layer 11, expected 3"):
        layout.checked_shards(tmp_path, manifest(tmp_path, 30, 4, "float16"))


def test_one_row_of_a_table_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_GROUP_ROWS", 10)
    table = pa.table({"id": range(35), "text": [f"sentence {row}" for row in range(35)]})
    layout.write_table(table, tmp_path / "table.parquet")
    opened = Table(tmp_path / "table.parquet")
    assert opened.read().equals(table)
    assert opened.read(["id"]).column_names == ["id"]
    decoded: list[int] = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda file, n: (decoded.append(n), real(file, n))[1])
    assert len(opened) == 35
    for row in (34, 0, 9, 10, 30):
        assert opened.row(row) == {"id": row, "text": f"sentence {row}"}
    assert decoded == [3, 0, 1]
