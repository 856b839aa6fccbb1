from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchlens.bank import format as layout
from patchlens.bank.format import DTYPES, Manifest, VectorFiles
from patchlens.errors import BankCorrupt, BankNotFound
from patchlens.provenance import Provenance

PROVENANCE = Provenance("bank", "tiny", None, "abc", "def", {"torch": "2"}, {"seed": 0})


def manifest(folder: Path, rows: int, d_model: int, dtype: str) -> Manifest:
    return Manifest(PROVENANCE, {"sentences": 1}, (2, 11), d_model, dtype, rows, layout.describe(folder))


def written(folder: Path, rows: int, d_model: int, dtype: str, shard_bytes: int) -> dict[int, Tensor]:
    """Fill the files of two layers in a shuffled order, a few rows at a time."""
    files = VectorFiles(folder, (2, 11), rows, d_model, dtype, shard_bytes)
    vectors = {layer: torch.randn(rows, d_model) for layer in (2, 11)}
    for at in torch.randperm(rows).split(7):
        for layer in vectors:
            files.write(layer, at, vectors[layer][at])
    return {layer: tensor.to(DTYPES[dtype][0]) for layer, tensor in vectors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_bytes", [1, 100, 1 << 30])
def test_vectors_survive_the_disk(tmp_path: Path, dtype: str, shard_bytes: int) -> None:
    torch.manual_seed(0)
    expected = written(tmp_path, 40, 5, dtype, shard_bytes)
    shards = layout.checked_shards(tmp_path, manifest(tmp_path, 40, 5, dtype))
    for layer, tensor in expected.items():
        mapped = [
            layout.map_vectors(shard.path, shard.offset, shard.rows, 5, DTYPES[dtype][0]) for shard in shards[layer]
        ]
        assert torch.equal(torch.cat(mapped), tensor)
        assert [shard.start for shard in shards[layer]] == [sum(map(len, mapped[:n])) for n in range(len(mapped))]
        assert all(shard.rows * 5 * tensor.element_size() <= max(shard_bytes, 5 * 4) for shard in shards[layer])
        # The library of the format reads the same.
        assert torch.equal(torch.cat([load_file(shard.path)["vectors"] for shard in shards[layer]]), tensor)


def test_names_sort_as_rows_do(tmp_path: Path) -> None:
    written(tmp_path, 30, 4, "float16", 80)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names[:3] == [f"layer_02-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert names[3:] == [f"layer_11-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_reading_needs_no_permission_to_write_and_writes_nothing(tmp_path: Path) -> None:
    expected = written(tmp_path, 4, 4, "float16", 1 << 30)[2]
    shard = layout.checked_shards(tmp_path, manifest(tmp_path, 4, 4, "float16"))[2][0]
    shard.path.chmod(0o444)
    mapped = layout.map_vectors(shard.path, shard.offset, 4, 4, torch.float16)
    mapped.zero_()  # a mapping of our own: the file stays as it was
    assert torch.equal(load_file(shard.path)["vectors"], expected)


def test_the_manifest_survives_the_disk(tmp_path: Path) -> None:
    written(tmp_path, 4, 4, "float16", 1 << 30)
    said = manifest(tmp_path, 4, 4, "float16")
    layout.write_manifest(tmp_path, said)
    assert layout.read_manifest(tmp_path) == said


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BankNotFound, match=r"holds no bank\.json"):
        layout.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"vectors": torch.zeros(4, 3)}, "'dtype': 'F32'"),
        ({"vectors": torch.zeros(4, 6).half()}, "'d_model': 6"),
        ({"vectors": torch.zeros(3, 3).half()}, "has 3 rows, expected 4"),
        ({"other": torch.zeros(4, 3).half()}, "no safetensors header with 'vectors'"),
    ],
)
def test_a_vector_file_that_is_another(tmp_path: Path, tensors: dict[str, Tensor], told: str) -> None:
    written(tmp_path, 4, 3, "float16", 1 << 30)
    save_file(tensors, tmp_path / "layer_02-00001-of-00001.safetensors")
    with pytest.raises(BankCorrupt, match=told):
        layout.checked_shards(tmp_path, manifest(tmp_path, 4, 3, "float16"))


def test_a_vector_file_that_is_no_safetensors(tmp_path: Path) -> None:
    written(tmp_path, 4, 3, "float16", 1 << 30)
    (tmp_path / "layer_02-00001-of-00001.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BankCorrupt, match="no safetensors header"):
        layout.checked_shards(tmp_path, manifest(tmp_path, 4, 3, "float16"))


def test_a_layer_without_all_its_files(tmp_path: Path) -> None:
    written(tmp_path, 30, 4, "float16", 80)
    (tmp_path / "layer_11-00002-of-00003.safetensors").unlink()
    with pytest.raises(BankCorrupt, match="lists 2 vector files of layer 11, expected 3"):
        layout.checked_shards(tmp_path, manifest(tmp_path, 30, 4, "float16"))
