import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import bank as module
from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, Context, open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.encoding import DTYPES, encode
from patchlens.bank.format import VectorFiles
from patchlens.errors import BankCorrupt, BankMismatch, BankNotFound, BankVersionError, OptionError, StorageError
from patchlens.models.embedded import Embedded
from patchlens.models.model import Model
from patchlens.search.exact import ExactIndex


@pytest.fixture(scope="module")
def built(tiny_causal: Model, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return build_bank(tiny_causal, SENTENCES, tmp_path_factory.mktemp("banks") / "tiny")


@pytest.fixture
def copied(built: Bank, tmp_path: Path) -> Path:
    return shutil.copytree(built.folder, tmp_path / "copy")


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change bank.json the way another program would: its own hash is right."""
    body = json.loads((folder / "bank.json").read_text()) | changes
    del body["sha256"]
    (folder / "bank.json").write_text(json.dumps(body | {"sha256": layout._digest(body)}))


def test_what_a_bank_says_of_itself(built: Bank, tiny_causal: Model) -> None:
    assert (len(built), built.layers, built.d_model, built.dtype) == (170, (1, 2, 3), 32, "float16")
    assert built.name == "tiny"
    assert built.provenance.fingerprint == tiny_causal.fingerprint
    assert built.provenance.tokenizer == tiny_causal.tokenizer_fingerprint
    assert "170 contexts × layers 1, 2, 3 × 32 float16" in repr(built)
    info = json.loads(json.dumps(built.info()))
    assert info["rows"] == 170
    assert info["sentences"] == 8
    assert info["settings"]["per_token"] == 20
    assert info["bytes"] == sum(path.stat().st_size for path in built.folder.iterdir() if path.name != "bank.json")


def test_opening_an_open_bank_is_the_bank(built: Bank) -> None:
    assert open_bank(built) is built


def test_a_context_says_what_the_model_saw(built: Bank) -> None:
    row = next(row for row in range(len(built)) if built.context(row).word == "cats")
    assert built.context(row) == Context(
        row=row,
        token="Ġcat",
        word="cats",
        sentence=SENTENCES[1],
        source="corpus:2",
        position=14,
        word_span=(34, 38),
        prefix_end=37,
    )
    for context in map(built.context, range(len(built))):
        assert context.sentence[slice(*context.word_span)] == context.word
        assert context.word_span[0] < context.prefix_end


def test_which_rows_fit(built: Bank) -> None:
    words, sentences = built.contexts["word"].to_pylist(), built.contexts["sentence"].to_pylist()
    texts, sources = (built.sentences[name].to_pylist() for name in ("text", "source"))

    def fits(wanted: Callable[[int], bool]) -> list[bool]:
        return [wanted(row) for row in range(len(built))]

    assert built.where().all()
    assert built.where(words=["CAT", "apples"]).tolist() == fits(lambda row: words[row].lower() in ("cat", "apples"))
    assert built.where(text="THE OLD").tolist() == fits(lambda row: "the old" in texts[sentences[row]].lower())
    found = built.where(sources="*:2", words=["the"])
    assert found.tolist() == fits(lambda row: sources[sentences[row]] == "corpus:2" and words[row].lower() == "the")
    assert 0 < int(found.sum()) < 5
    assert not built.where(sources="corpus").any(), "a pattern is of the whole source"
    assert not built.where(sources="c.rpus:*").any(), "and no regular expression"
    assert not built.where(words=[]).any()


def test_labels_and_descriptions(built: Bank) -> None:
    contexts = [built.context(row) for row in range(len(built))]
    assert built.labels("word").to_pylist() == [context.word.casefold() for context in contexts]
    assert built.labels("sentence").to_pylist() == [context.sentence for context in contexts]
    rows = np.array([5, 169, 5, 0])
    described = built.describe(rows).to_pylist()
    for row, found in zip(rows.tolist(), described, strict=True):
        context = contexts[row]
        assert found == {
            "word": context.word,
            "sentence": context.sentence,
            "source": context.source,
            "token": context.token,
            "position": context.position,
            "word_start": context.word_span[0],
            "word_end": context.word_span[1],
            "prefix_end": context.prefix_end,
        }
    assert built.describe(rows[:0]).num_rows == 0


def test_a_search_in_words(built: Bank) -> None:
    index = ExactIndex(built)
    states = built.vectors(2, unit=True)[:3]
    matches = index.search(states, 4, unique="word")
    assert [words[0] for words in matches.words] == [built.context(row).word for row in range(3)]
    assert all(len({word.lower() for word in words}) == 4 for words in matches.words)
    assert matches.sentences[0][0] == built.context(0).sentence
    assert matches.table.num_rows == 12
    assert matches.table["rank"].to_pylist() == [1, 2, 3, 4] * 3
    among = index.search(states, 2, where=built.where(words=["cat", "cats"]))
    assert {word.lower() for words in among.words for word in words} <= {"cat", "cats"}
    both = ExactIndex([built, built]).search(states, 2)
    assert both.table["bank"].to_pylist() == [0, 1] * 3, "of equal rows the first bank's come first"
    assert both.words == [[word, word] for word in (built.context(row).word for row in range(3))]
    sentences = index.search(states, 8, unique="sentence").sentences
    assert all(len(set(found)) == 8 for found in sentences)


def test_a_bank_that_changes_while_it_is_searched(copied: Path) -> None:
    index = ExactIndex(open_bank(copied))
    query = torch.ones(1, 32)
    index.search(query, 1)
    file = next(copied.glob("layer_02-*"))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(BankCorrupt, match=r"layer_02-.*changed or removed while the bank was open"):
        index.search(query, 1)


@pytest.mark.parametrize("row", [-1, 170])
def test_a_row_that_is_not_there(built: Bank, row: int) -> None:
    with pytest.raises(OptionError, match=f"no row {row}"):
        built.context(row)


def test_blocks_are_the_vectors(built: Bank) -> None:
    for size in (1, 7, 1000):
        parts = list(built.blocks(2, size))
        assert [start for start, _ in parts] == list(range(0, 170, size))
        assert torch.equal(torch.cat([part for _, part in parts]), built.vectors(2))


def resharded(bank: Bank, out: Path, shard_rows: list[int], dtype: str) -> Bank:
    """The same bank over other files, in another type."""
    out.mkdir()
    files = VectorFiles.create(out, bank.layers, shard_rows, bank.d_model, dtype)
    for layer in bank.layers:
        files.write(layer, 0, encode(bank.vectors(layer, unit=True), dtype))
    files.flush()
    for name in (layout.CONTEXTS, layout.SENTENCES):
        shutil.copy(bank.folder / name, out)
    layout.write_manifest(out, replace(bank.manifest, dtype=dtype, files=layout.describe(out)))
    return open_bank(out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_over_several_files_of_any_size(built: Bank, tmp_path: Path, dtype: str) -> None:
    whole = resharded(built, tmp_path / "whole", [170], dtype)
    split = resharded(built, tmp_path / "split", [64, 1, 100, 5], dtype)
    assert len(split.shards[1]) == 4
    assert torch.equal(split.vectors(1).float(), whole.vectors(1).float())
    assert [(start, len(part)) for start, part in split.blocks(1, 50)] == [
        (0, 50), (50, 14), (64, 1), (65, 50), (115, 50), (165, 5),
    ]  # fmt: skip
    for start, part in split.encoded(2, 50):
        assert torch.equal(part.vectors.float(), whole.vectors(2)[start : start + len(part)].float())
    split.verify()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_unit_length(built: Bank, tmp_path: Path, dtype: str) -> None:
    bank = resharded(built, tmp_path / "bank", [100, 70], dtype)
    unit = bank.vectors(3, unit=True)
    assert unit.dtype == torch.float32
    assert torch.allclose(unit.norm(dim=1), torch.ones(170), atol=1e-6)
    cosines = (unit * built.vectors(3, unit=True)).sum(dim=1)
    assert float(cosines.min()) > {"int8": 0.999, "float8_e4m3fn": 0.998}.get(dtype, 0.99999)
    unit.zero_()  # a copy
    assert float(bank.vectors(3, unit=True).norm()) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_search_finds_each_stored_row(built: Bank, tmp_path: Path, dtype: str) -> None:
    bank = resharded(built, tmp_path / "bank", [100, 70], dtype)
    for layer in bank.layers:
        matches = ExactIndex(bank).search(bank.vectors(layer, unit=True), k=1)
        assert torch.all(matches.similarities > 1 - 1e-6)
        assert torch.equal(matches.rows[:, 0], torch.arange(170))
        assert torch.all(matches.layers == layer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_taking_some_rows(built: Bank, tmp_path: Path, dtype: str) -> None:
    bank = resharded(built, tmp_path / "bank", [100, 1, 69], dtype)
    rows = torch.tensor([169, 3, 100, 3, 99])
    taken = bank.take(2, rows)
    assert torch.equal(taken.vectors.float(), bank.vectors(2).float()[rows])
    if taken.scales is not None:
        scales = torch.cat([part.scales for _, part in bank.encoded(2, 1000) if part.scales is not None])
        assert torch.equal(taken.scales, scales[rows])
    assert len(bank.take(2, rows[:0])) == 0
    for wrong in (-1, 170):
        with pytest.raises(OptionError, match=rf"Taking rows .*{wrong}.* 0 to 169"):
            bank.take(2, torch.tensor([5, wrong]))
    with pytest.raises(OptionError, match="no layer 9"):
        bank.take(9, rows)


def test_a_bank_of_hundreds_of_files_opens_at_once(built: Bank, tmp_path: Path) -> None:
    """Some 6,000 files a second here; the bound is for slow machines and still far below reading anything."""
    bank = resharded(built, tmp_path / "bank", [1] * 170, "int8")
    assert len(bank.manifest.files) == 2 + 3 * 170
    times = []
    for _ in range(3):
        began = time.perf_counter()
        open_bank(bank.folder)
        times.append(time.perf_counter() - began)
    assert min(times) < 1


def test_a_layer_that_the_bank_lacks(built: Bank) -> None:
    with pytest.raises(OptionError, match=r"no layer 4\. It holds 1, 2, 3"):
        built.vectors(4)
    with pytest.raises(OptionError, match="no layer 0"):
        built.blocks(0, 10)


def test_the_right_model_passes(built: Bank, tiny_causal: Model) -> None:
    built.check(tiny_causal.fingerprint, 32)


def test_another_width(built: Bank) -> None:
    for allowed in (False, True):
        with pytest.raises(BankMismatch, match=r"holds 32-dimensional rows.*are 48-dimensional, from wide"):
            built.check("other", 48, model="wide", allow_other_model=allowed)


def test_another_model(built: Bank) -> None:
    with pytest.raises(BankMismatch, match=r"states come from tiny2.*loaded in float16.*allow_other_model"):
        built.check("other", 32, model="tiny2")
    built.check("other", 32, model="tiny2", allow_other_model=True)


def test_no_such_bank(tmp_path: Path) -> None:
    with pytest.raises(BankNotFound, match="no such folder"):
        open_bank(tmp_path / "absent")
    with pytest.raises(BankNotFound, match="no embedded model of that name"):
        open_bank("picturebok")
    with pytest.raises(BankNotFound, match=r"no bank\.json"):
        open_bank(tmp_path)


def test_names_that_the_disk_refuses(built: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a" * 300, tmp_path / ("a" * 300)):
        with pytest.raises(BankNotFound, match="no such folder"):
            open_bank(name)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(BankNotFound, match="no such folder"):
        open_bank(built.folder)


@pytest.mark.parametrize("name", ["contexts.parquet", "sentences.parquet", "layer_02-00001-of-00001.safetensors"])
def test_a_file_that_is_missing_or_cut(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1])
    with pytest.raises(BankCorrupt, match=rf"{name} has {len(content) - 1:,} bytes, expected {len(content):,}"):
        open_bank(copied)
    (copied / name).unlink()
    with pytest.raises(BankCorrupt, match=f"{name} is missing"):
        open_bank(copied)


def test_an_edited_table_is_noticed_on_opening(copied: Path) -> None:
    path = copied / "sentences.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankCorrupt, match=r"sentences\.parquet was edited"):
        open_bank(copied)


def test_edited_vectors_are_noticed_on_opening_or_else_by_verify(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "layer_02-00001-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankCorrupt, match=r"layer_02.*was edited"):
        open_bank(copied)
    sizes = [path.stat().st_size for path in copied.iterdir() if path.suffix == ".parquet"]
    monkeypatch.setattr(layout, "HASHED_BYTES", sum(sizes))  # as in a bank with large vector files
    bank = open_bank(copied)
    with pytest.raises(BankCorrupt, match=r"layer_02.*was edited"):
        bank.verify()


def test_an_edited_manifest(copied: Path) -> None:
    path = copied / "bank.json"
    text = path.read_text()
    path.write_text(text.replace('"rows": 170', '"rows": 171'))
    with pytest.raises(BankCorrupt, match=r"bank\.json was edited"):
        open_bank(copied)
    for broken in (text[:-20], "", "[]", '{"format": "other"}'):
        path.write_text(broken)
        with pytest.raises(BankCorrupt, match=r"bank\.json"):
            open_bank(copied)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": 171}, "layer 1 has 170 rows, expected 171"),
        ({"d_model": 16}, r"says .*'shape': \[170, 32\].*expected .*'shape': \[170, 16\]"),
        ({"dtype": "bfloat16"}, "says .*'F16'.*expected .*'BF16'"),
        ({"layers": [1, 2, 3, 4]}, "lists 0 vector files of layer 4"),
        ({"provenance": {}}, "missing: fingerprint"),
    ],
)
def test_a_manifest_that_contradicts_the_files(copied: Path, changes: dict[str, object], told: str) -> None:
    rewrite_manifest(copied, **changes)
    with pytest.raises(BankCorrupt, match=told):
        open_bank(copied)


@pytest.mark.parametrize("changes", [{"version": 2}, {"version": "1"}, {"dtype": "int4"}, {"dtype": ["int8"]}])
def test_an_unknown_format_version(copied: Path, changes: dict[str, object]) -> None:
    rewrite_manifest(copied, **changes)
    with pytest.raises(BankVersionError, match="This release reads version 1"):
        open_bank(copied)


def test_verify_is_there(built: Bank, tiny_causal: Model) -> None:
    """tests/bank/test_verify.py has the rest."""
    built.verify()
    built.verify(model=tiny_causal)


def test_opening_and_looking_at_a_row_decode_no_table(built: Bank) -> None:
    bank = open_bank(built.folder)
    assert bank.context(5) == built.context(5)
    bank.info()
    assert not {"contexts", "sentences"} & set(vars(bank))


@pytest.fixture
def member(
    causal_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[int]]:
    """An embedded model named "tiny"; gives a list with one entry for each time its corpus was asked for."""
    from patchlens.models import source

    asked: list[int] = []

    def corpus() -> tuple[str, ...]:
        asked.append(1)
        return SENTENCES

    found = Embedded("tiny", causal_folder("llama"), corpus, {"per_token": 3}, "A tiny model.")
    for place in (module, source):
        monkeypatch.setattr(place, "embedded", lambda name: found if name == "tiny" else None)
    monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "cache"))
    return lambda: asked


def test_an_embedded_bank_is_built_once(member: Callable[[], list[int]], tmp_path: Path) -> None:
    stages: set[str] = set()
    bank = open_bank("tiny", report=lambda stage, *_: stages.add(stage))
    assert stages == {"plan", "run"}
    assert bank.name == "tiny"
    assert bank.provenance.model == "tiny"
    assert bank.provenance.settings["per_token"] == 3
    assert torch.equal(open_bank("tiny").vectors(1), bank.vectors(1))
    assert len(member()) == 1
    assert bank.folder.parent == tmp_path / "cache" / "banks"


def test_a_damaged_cached_bank_is_built_again(member: Callable[[], list[int]]) -> None:
    folder = open_bank("tiny").folder
    (folder / "contexts.parquet").write_bytes(b"")
    assert len(open_bank("tiny").contexts) == len(open_bank("tiny"))
    assert len(member()) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_who_opens_while_another_builds_waits_for_it(
    member: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads stand for two processes; the second begins when the first is in the middle."""
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.01)
    banks: list[Bank] = []
    waits = threading.Event()
    second = threading.Thread(
        target=lambda: banks.append(open_bank("tiny", report=lambda stage, *_: stage == "wait" and waits.set()))
    )

    def start_second(stage: str, done: int, total: int) -> None:
        if stage == "run" and not waits.is_set():
            second.start()
            assert waits.wait(60)

    banks.append(open_bank("tiny", report=start_second))
    second.join(60)
    one, other = banks
    assert torch.equal(one.vectors(2), other.vectors(2))
    assert [path.name for path in one.folder.parent.iterdir()] == [one.folder.name]


def test_a_cache_where_nothing_may_be_written(member: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="may write"):
        open_bank("tiny")
