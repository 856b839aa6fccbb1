import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from patchlens.bank.importing import import_bank
from patchlens.errors import BankCorrupt, PatchlensError
from reference.latentlens import Cache, saved, small

# All through `import_bank`: what counts is that nothing of a foreign file gets further.


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["row", "key", "whole", "bare"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    trace = tmp_path / "it ran"
    folder = saved(tmp_path / "index", {1: small(), 2: small()})
    path = folder / "layer_2" / "embeddings_cache.pt"
    cache: Any = small()
    if place == "row":
        cache["metadata"][1]["caption"] = Evil(trace)
    elif place == "key":
        cache["more"] = Evil(trace)
    else:
        cache = Evil(trace)
    if place == "bare":
        path.write_bytes(pickle.dumps(cache))
    else:
        torch.save(cache, path)
    with pytest.raises(BankCorrupt, match=r"layer_2.*weights_only") as caught:
        import_bank(folder, tmp_path / "bank")
    assert place == "bare" or "mkdir" in str(caught.value)
    assert not trace.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index"]
    if place != "bare":
        torch.load(path, weights_only=False)  # it would have
        assert trace.exists()


def test_a_setting_of_torch_does_not_weaken_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    test_code_in_a_file_is_refused_and_not_run(tmp_path, "row")


def broken(change: Callable[[Cache], object]) -> Cache:
    cache = small()
    change(cache)
    return cache


@pytest.mark.parametrize(
    ("cache", "told"),
    [
        (torch.ones(3), "holds a Tensor, expected a dict"),
        ([1, 2], "holds a list, expected a dict"),
        ({"embeddings": torch.ones(3, 4)}, "'embeddings' and 'metadata'"),
        (broken(lambda c: c["metadata"].pop()), "metadata is 2 entries, expected a list of 3"),
        (broken(lambda c: c.update(metadata={})), "metadata is a dict, expected a list of 3"),
        (broken(lambda c: c.update(metadata=None)), "metadata is nothing"),
        (broken(lambda c: c.update(embeddings=[[1.0]])), "embeddings is a list, expected a dense tensor"),
        (broken(lambda c: c.update(embeddings=torch.ones(3))), r"embeddings is a tensor \[3\]"),
        (broken(lambda c: c.update(embeddings=torch.ones(0, 4), metadata=[])), r"tensor \[0, 4\]"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 0))), r"tensor \[3, 0\]"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 4, 1))), r"tensor \[3, 4, 1\]"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 4).int())), "torch.int32"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 4).to(torch.complex64))), "complex64"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 4).to_sparse())), "torch.sparse"),
        (broken(lambda c: c.update(embeddings=torch.ones(3, 4, device="meta"))), "meta"),
        (broken(lambda c: c["embeddings"][1, 2].fill_(torch.nan)), "row 1 of embeddings is NaN, infinite or zero"),
        (broken(lambda c: c["embeddings"][2, 0].fill_(torch.inf)), "row 2 of embeddings is NaN"),
        (broken(lambda c: c["embeddings"][0].fill_(0)), "row 0 of embeddings is NaN, infinite or zero"),
        (broken(lambda c: c["metadata"].__setitem__(1, "cat")), "in row 1 of metadata stands a str"),
        (broken(lambda c: c["metadata"][2].pop("caption")), "in row 2 of metadata caption is nothing, expected a text"),
        (broken(lambda c: c["metadata"][2].update(token_str=7)), "token_str is a int"),
        (broken(lambda c: c["metadata"][2].update(caption="\ud83d")), "caption holds half a surrogate pair"),
        (broken(lambda c: c["metadata"][0].update(token_id=1.0)), "token_id is a float, expected a whole number"),
        (broken(lambda c: c["metadata"][0].update(token_id=True)), "token_id is a bool"),
        (broken(lambda c: c["metadata"][0].update(token_id=-1)), "token_id is -1, expected 0 to 2147483647"),
        (broken(lambda c: c["metadata"][0].update(position=2**31)), "position is 2147483648"),
        (broken(lambda c: c["metadata"][0].update(position=10**70)), "position is a number of 233 bits"),
        (broken(lambda c: c["metadata"][0].update(position=10**700)), "holds something unusual .*weights_only"),
        (broken(lambda c: c["metadata"][0].update(position=torch.ones(()))), "position is a Tensor"),
    ],
)
def test_what_does_not_belong_there_is_refused(tmp_path: Path, cache: object, told: str) -> None:
    folder = saved(tmp_path / "index", {8: small()})
    torch.save(cache, folder / "layer_8" / "embeddings_cache.pt")
    with pytest.raises(BankCorrupt, match=rf"layer_8.embeddings_cache\.pt: .*{told}"):
        import_bank(folder, tmp_path / "bank")
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


def test_broken_files(tmp_path: Path) -> None:
    folder = saved(tmp_path / "index", {1: small(100, 64)})
    path = folder / "layer_1" / "embeddings_cache.pt"
    content = path.read_bytes()
    for cut in (
        b"",
        content[:20],
        content[: len(content) // 2],
        content[:-1],
        b"PK\x03\x04" + bytes(500),
        b"text" * 99,
    ):
        path.write_bytes(cut)
        with pytest.raises(BankCorrupt, match=r"no whole file of torch\.save"):
            import_bank(folder, tmp_path / "bank")
    torch.save(small(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(BankCorrupt, match=r"before PyTorch 1\.6"):
        import_bank(folder, tmp_path / "bank")
    path.unlink()
    path.mkdir()
    with pytest.raises(BankCorrupt, match="is missing"):
        import_bank(folder, tmp_path / "bank")


def test_a_tensor_that_claims_more_than_its_file_holds(tmp_path: Path) -> None:
    folder = saved(tmp_path / "index", {1: small()}, torch.float32)
    path = folder / "layer_1" / "embeddings_cache.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content[:16] if name.endswith("data/0") else content)
    with pytest.raises(BankCorrupt, match="takes 48 bytes, and no record"):
        import_bank(folder, tmp_path / "bank")


def test_a_compressed_archive(tmp_path: Path) -> None:
    """Which could unfold to any size, and which PyTorch would map wrongly."""
    folder = saved(tmp_path / "index", {1: small()})
    path = folder / "layer_1" / "embeddings_cache.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(BankCorrupt, match="Records are compressed"):
        import_bank(folder, tmp_path / "bank")


def test_every_refusal_is_one_of_ours(tmp_path: Path) -> None:
    """A file with any of its bytes changed imports as a sound bank, or is refused with a message."""
    folder = saved(tmp_path / "index", {1: small(20)})
    path = folder / "layer_1" / "embeddings_cache.pt"
    content = path.read_bytes()
    step = len(content) // 97
    for at in range(0, len(content), step):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            import_bank(folder, tmp_path / f"bank{at}").verify()
        except PatchlensError:
            assert not (tmp_path / f"bank{at}").exists()
