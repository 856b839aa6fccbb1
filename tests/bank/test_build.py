import errno
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import attempt as module
from patchlens.bank import workers
from patchlens.bank.build import Estimate, auto_layers, build_bank, plan_bank
from patchlens.bank.encoding import DTYPES, row_bytes
from patchlens.bank.pack import Packing
from patchlens.errors import CorpusError, ModelNotFound, NonFiniteStates, OptionError, StorageError
from patchlens.inputs.corpus import read_corpus
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.search.exact import ExactIndex
from reference.contexts import contexts, states


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bank_equals_the_slow_way(tiny_causal: Model, tmp_path: Path) -> None:
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank", per_token=1000, dtype="float32")
    expected = sorted(contexts(tiny_causal.tokenizer, list(SENTENCES)).values())
    rows = [bank.context(row) for row in range(len(bank))]
    found = [(SENTENCES.index(context.sentence), context.position) for context in rows]
    assert sorted(found) == expected
    for layer in bank.layers:
        slow = torch.stack([states(tiny_causal, SENTENCES[number], layer)[at] for number, at in found])
        slow = torch.nn.functional.normalize(slow, dim=-1)
        torch.testing.assert_close(bank.vectors(layer), slow, atol=1e-5, rtol=0)
    bank.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_each_stored_type_is_unit_length_and_finds_itself(tiny_llava: Model, tmp_path: Path, dtype: str) -> None:
    bank = build_bank(tiny_llava, SENTENCES, tmp_path / "bank", dtype=dtype)
    bank.verify()
    for layer in bank.layers:
        vectors = bank.vectors(layer).float()
        distinct = torch.unique(vectors, dim=0, return_inverse=True)[1]
        matches = ExactIndex(bank).search(vectors * 7, k=1)
        assert torch.all(matches.similarities == 1)
        # A row that has an equal one before it finds that one.
        first = torch.tensor([int((distinct == group).nonzero()[0]) for group in distinct])
        assert torch.equal(matches.rows[:, 0], first)
        assert torch.all(matches.layers == layer)


@pytest.mark.parametrize("bos", [True, False])
def test_the_same_inputs_give_the_same_bytes(causal_folder: Callable[..., Path], tmp_path: Path, bos: bool) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(SENTENCES))
    one = build_bank(load_model(causal_folder("llama", bos=bos)), path, tmp_path / "one", seed=3)
    other = build_bank(str(causal_folder("llama", bos=bos)), str(path), tmp_path / "deep" / "other", seed=3)
    assert content(one.folder) == content(other.folder)


def test_padding_side_changes_no_row(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    left, right = (
        build_bank(causal_folder("qwen2", padding_side=side), SENTENCES, tmp_path / side) for side in ("left", "right")
    )
    files = content(left.folder), content(right.folder)
    for name in files[0].keys() - {"bank.json"}:  # which names the model's folder
        assert files[0][name] == files[1][name]


def test_provenance_says_how(tiny_causal: Model, tmp_path: Path) -> None:
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank", layers="1,-1", per_token=2, words="final", seed=5)
    assert bank.layers == (1, 4)
    assert bank.provenance.kind == "bank"
    assert bank.provenance.settings == {
        "per_token": 2,
        "choose": "spread",
        "words": "final",
        "skip_positions": None,
        "seed": 5,
        "max_positions": 512,
        "layers": [1, 4],
        "dtype": "float16",
        "compute_dtype": "float32",
    }
    assert bank.provenance.created is None


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (1, (1,)),
        (2, (1,)),
        (6, (1, 2, 3, 4, 5)),
        (7, (1, 2, 3, 4, 5, 6)),
        (8, (1, 2, 4, 6, 7)),
        (28, (1, 2, 4, 8, 16, 24, 26, 27)),
        (32, (1, 2, 4, 8, 16, 24, 30, 31)),
    ],
)
def test_the_papers_layers(n_layers: int, expected: tuple[int, ...]) -> None:
    assert auto_layers(n_layers) == expected


def test_an_existing_bank_is_replaced_only_when_asked(tiny_causal: Model, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    build_bank(tiny_causal, SENTENCES, out, per_token=1)
    before = content(out)
    with pytest.raises(OptionError, match="not empty"):
        build_bank(tiny_causal, SENTENCES, out)
    assert content(out) == before
    assert len(build_bank(tiny_causal, SENTENCES, out, overwrite=True)) == 170
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("dear")
    with pytest.raises(OptionError, match=r"holds no bank\.json"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "photos", overwrite=True)
    assert content(tmp_path / "photos") == {"holiday.jpg": b"dear"}


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"layers": "9"}, OptionError, "has 4 blocks"),
        ({"workers": 0}, OptionError, "workers is 0"),
        ({"workers": True}, OptionError, "workers is True"),
        ({"launcher": "mpi"}, OptionError, "launcher is 'mpi'.*processes, ray"),
        ({"compute_dtype": "bfloat16"}, OptionError, "compute_dtype is 'bfloat16', but .* was loaded in float32"),
        ({"layers": []}, OptionError, "layers"),
        ({"dtype": "int4"}, OptionError, "dtype is 'int4'.*float16, .*int8"),
        ({"per_token": 0}, OptionError, "per_token is 0"),
        ({"choose": "best"}, OptionError, "choose is 'best'"),
        ({"corpus": []}, CorpusError, "no sentence"),
        ({"corpus": "absent.txt"}, CorpusError, "no such file"),
        ({"corpus": ["a" * 1_000_000]}, CorpusError, "1,000,000 characters"),
        ({"model": "no/such/model/anywhere"}, ModelNotFound, "no/such/model"),
    ],
)
def test_bad_input_leaves_nothing(
    tiny_causal: Model, tmp_path: Path, options: dict[str, object], error: type[Exception], told: str
) -> None:
    given = {"model": tiny_causal, "corpus": SENTENCES} | options
    with pytest.raises(error, match=told):
        build_bank(out=tmp_path / "deep" / "bank", **given)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_states_are_not_finite(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = load_model(causal_folder("llama"))
    with torch.no_grad():
        model.blocks[1].self_attn.o_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteStates, match="layer 2"):
        build_bank(model, SENTENCES, tmp_path / "bank")
    assert list(tmp_path.iterdir()) == []


def test_no_space_while_tables_are_written(tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "bank")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "bank")


def test_a_later_failure_of_the_model_keeps_what_was_done(
    causal_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work are not thrown away for what may have been a fault of the hardware."""
    monkeypatch.setattr(module, "choose_packing", lambda model, plan: Packing(packed=True, positions=24, packs=1))
    monkeypatch.setattr(workers, "FLUSH_SECONDS", 0.0)
    model = load_model(causal_folder("llama"))

    def damage(stage: str, done: int, total: int) -> None:
        if stage == "run" and done > 50:
            with torch.no_grad():
                model.blocks[1].self_attn.o_proj.weight[0, 0] = torch.nan

    with pytest.raises(NonFiniteStates) as caught:
        build_bank(model, SENTENCES, tmp_path / "bank", report=damage)
    assert caught.value.__notes__ == [
        f"What was done is kept in {tmp_path}/.bank.build; the same command goes on from there."
    ]
    build_bank(load_model(causal_folder("llama")), SENTENCES, tmp_path / "bank").verify()


def test_what_a_killed_plan_left_is_no_obstacle(tiny_causal: Model, tmp_path: Path) -> None:
    (tmp_path / ".bank.build" / "plan").mkdir(parents=True)
    (tmp_path / ".bank.build" / "plan" / "half").write_text("half")
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank")
    assert "half" not in content(bank.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_loaded_network_with_its_tokenizer(tiny_causal: Model, tiny_llava: Model, tmp_path: Path) -> None:
    named = build_bank(tiny_causal, SENTENCES, tmp_path / "named")
    loose = build_bank((tiny_causal.network, tiny_causal.tokenizer), SENTENCES, tmp_path / "loose")
    assert content(named.folder) == content(loose.folder)
    vlm = build_bank((tiny_llava.network, tiny_llava.tokenizer), SENTENCES, tmp_path / "vlm")
    assert vlm.provenance.fingerprint == tiny_llava.fingerprint
    tiny_causal.network.train()
    try:
        with pytest.raises(OptionError, match=r"training mode.*eval\(\)"):
            build_bank((tiny_causal.network, tiny_causal.tokenizer), SENTENCES, tmp_path / "none")
    finally:
        tiny_causal.network.eval()
    with pytest.raises(OptionError, match=r"made in memory.*use one worker"):
        build_bank((tiny_causal.network, tiny_causal.tokenizer), SENTENCES, tmp_path / "none", workers=2)


def test_the_type_that_computes(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = causal_folder("llama")
    exact, rounded = (
        build_bank(folder, SENTENCES, tmp_path / str(name), dtype="float32", compute_dtype=name)
        for name in (None, "bfloat16")
    )
    assert exact.provenance.settings["compute_dtype"] == "float32"
    assert rounded.provenance.settings["compute_dtype"] == "bfloat16"
    distance = (exact.vectors(2) - rounded.vectors(2)).norm(dim=-1)
    assert 1e-4 < float(distance.median()) < 0.1


@pytest.mark.parametrize(
    ("rows", "files"),
    [(1, 1), (100, 1), (1 << 20, 1), (3 << 20, 3), (32 << 20, 32), (1 << 30, 32), (1 << 31, 64)],
)
def test_how_many_files_a_layer_has(rows: int, files: int) -> None:
    """Rows of 8 bytes: one file up to 8 MiB, then up to 32 files, then as many as keep each within 256 MiB."""
    assert -(-rows // module._shard_rows(rows, 4, "float16")) == files


def test_shards_are_the_files_of_a_layer(tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_bank(tiny_causal, SENTENCES, tmp_path / "whole", dtype="int8")
    monkeypatch.setattr(module, "FILE_BYTES", (1_000, 1_000))
    cut = build_bank(tiny_causal, SENTENCES, tmp_path / "cut", dtype="int8")
    assert len(cut.manifest.files) > 2 + 5 * 3
    assert max(file["bytes"] for name, file in cut.manifest.files.items() if name.startswith("layer")) < 1_500
    cut.verify()
    for layer in whole.layers:
        assert torch.equal(torch.cat([block for _, block in cut.blocks(layer, 7)]), whole.vectors(layer))


def test_a_corpus_is_read_as_asked_and_what_was_skipped_is_counted(tiny_causal: Model, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"says": "{text}", "id": 7}}\n' for text in SENTENCES[:4]) + "not JSON\n")
    bank = build_bank(tiny_causal, corpus, tmp_path / "bank", column="says")
    assert bank.manifest.corpus["sentences"] == 4
    assert bank.manifest.corpus["skipped"] == 1
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:5"):
        build_bank(tiny_causal, corpus, tmp_path / "strict", column="says", strict=True)
    assert not (tmp_path / "strict").exists()
    given = read_corpus(corpus, column="says")
    assert content(build_bank(tiny_causal, given, tmp_path / "given").folder) == content(bank.folder)
    assert sum(skipped.count for skipped in given.skipped.values()) == 1


def test_an_estimate_is_what_the_build_does(tiny_causal: Model, tmp_path: Path) -> None:
    stages: list[str] = []
    options = {"layers": [1, 2, 3], "dtype": "int8", "per_token": 3}
    estimate = plan_bank(tiny_causal, SENTENCES, **options, report=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"plan", "probe"}
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank", **options)
    assert isinstance(estimate, Estimate)
    assert estimate.rows == len(bank)
    for count in ("sentences", "skipped", "tokens", "prefixes", "prefixes_run"):
        assert getattr(estimate, count) == bank.manifest.corpus[count]
    assert estimate.layer_bytes == {name: len(bank) * row_bytes(32, name) for name in DTYPES}
    vectors = [bank.encoded(layer, len(bank)) for layer in bank.layers]
    stored = sum(part.vectors.nbytes + part.scales.nbytes for parts in vectors for _, part in parts)
    assert estimate.bytes == stored
    assert estimate.seconds == pytest.approx(estimate.prefixes_run / estimate.prefixes_per_second)
    assert estimate.prefixes_per_second > 0
    with pytest.raises(OptionError, match="dtype is 'int4'"):
        plan_bank(tiny_causal, SENTENCES, dtype="int4")
