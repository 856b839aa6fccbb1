import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import format as layout
from patchlens.bank import verify as module
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.encoding import DTYPES, Encoded
from patchlens.bank.format import VectorFiles
from patchlens.errors import BankCorrupt, BankMismatch
from patchlens.models.loading import load_model
from patchlens.models.model import Model


@pytest.fixture(scope="module")
def banks(tiny_causal: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bank]:
    """A bank in each stored type."""
    folder = tmp_path_factory.mktemp("banks")
    made: dict[str, Bank] = {}

    def bank(dtype: str = "float16") -> Bank:
        if dtype not in made:
            made[dtype] = build_bank(tiny_causal, SENTENCES, folder / dtype, dtype=dtype)
        return made[dtype]

    return bank


@pytest.fixture
def copied(banks: Callable[[str], Bank], tmp_path: Path) -> Callable[[str], Path]:
    return lambda dtype="float16": shutil.copytree(banks(dtype).folder, tmp_path / dtype)


def reseal(folder: Path, **changes: object) -> Bank:
    """Record the files as they are now, as a program would that writes wrong things by mistake."""
    manifest = layout.read_manifest(folder)
    (folder / layout.MANIFEST).unlink()
    layout.write_manifest(folder, replace(manifest, files=layout.describe(folder), **changes))
    return open_bank(folder)


def overwrite(folder: Path, layer: int, row: int, encoded: Encoded) -> None:
    bank = open_bank(folder)
    rows = [mapped.shard.rows for mapped in bank.shards[layer]]
    files = VectorFiles.reopen(folder, bank.layers, rows, bank.d_model, bank.dtype)
    files.write(layer, row, encoded)
    files.flush()


def change(folder: Path, name: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(edit(pq.read_table(folder / name)), folder / name)


def put(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        at = table.schema.get_field_index(column)
        return table.set_column(at, column, pa.array(values, table.schema.field(column).type))

    return edit


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_bank_passes(banks: Callable[[str], Bank], tiny_causal: Model, dtype: str) -> None:
    seen: list[tuple[str, int, int]] = []
    banks(dtype).verify(lambda *report: seen.append(report), tiny_causal)
    for stage in ("verify", "recompute"):
        steps = [(done, total) for at, done, total in seen if at == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
        assert len({total for _, total in steps}) == 1
    assert seen[-1] == ("recompute", 64, 64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.0, 0.5])
def test_rows_that_are_no_directions(copied: Callable[[str], Path], dtype: str, value: float) -> None:
    folder = copied(dtype)
    row = open_bank(folder).vectors(3)[17:18].clone()
    overwrite(folder, 3, 17, Encoded(row * value, None))
    with pytest.raises(BankCorrupt, match=r"row 17 at layer 3 has length .*, expected 1 within"):
        reseal(folder).verify()


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1.3, 0.7, -1.0, 0.0, 1000.0])
def test_scales_that_give_no_unit_length(copied: Callable[[str], Path], dtype: str, factor: float) -> None:
    folder = copied(dtype)
    row = open_bank(folder).take(3, torch.tensor([17]))
    overwrite(folder, 3, 17, Encoded(row.vectors, row.scales * factor))
    with pytest.raises(BankCorrupt, match="row 17 at layer 3 has length"):
        reseal(folder).verify()


def test_nan_in_eight_bits(copied: Callable[[str], Path]) -> None:
    folder = copied("float8_e4m3fn")
    row = open_bank(folder).take(3, torch.tensor([17]))
    row.vectors.view(torch.uint8)[0, 4] = 0x7F
    overwrite(folder, 3, 17, row)
    with pytest.raises(BankCorrupt, match="row 17 at layer 3 has length nan"):
        reseal(folder).verify()


def test_an_edited_file(copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied()
    row = open_bank(folder).vectors(2)[:1].clone()
    overwrite(folder, 2, 0, Encoded(-row, None))  # as good a direction as any
    monkeypatch.setattr(layout, "HASHED_BYTES", 0)
    with pytest.raises(BankCorrupt, match=r"layer_02.*was edited"):
        open_bank(folder).verify()


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        ("contexts", lambda table: table.slice(0, 100), "has 100 rows, expected 170"),
        ("contexts", lambda table: table.drop_columns("rank"), "contexts.parquet has the columns .*expected .*rank"),
        ("contexts", put("word_end", 9, None), "has 1 rows without word_end"),
        ("contexts", put("rank", 9, None), "has 1 rows without rank"),
        ("contexts", put("sentence", 9, 8), "row 9 of contexts.parquet has a sentence that cannot be.*'sentence': 8"),
        ("contexts", put("sentence", 9, -100), "row 9 .*'sentence': -100"),
        ("contexts", put("token_id", 9, -1), "row 9 .* has a token_id"),
        ("contexts", put("position", 9, -1), "row 9 .* has a position"),
        ("contexts", put("word_start", 9, -1), "row 9 .* has a word_end"),
        ("contexts", put("word_end", 9, 1000), "row 9 .* has a word_end .* this one of .* characters"),
        ("contexts", put("token_start", 9, 999), "row 9 .* has a token_end"),
        ("contexts", put("token_end", 9, 1000), "row 9 .* has a token_end"),
        ("sentences", lambda table: table.slice(0, 3), "has a sentence that cannot be.*with 3 sentences"),
        ("sentences", put("id", 2, 7), "ids in sentences.parquet are not its row numbers"),
        ("sentences", put("text", 2, None), "sentences.parquet has 1 rows without text"),
        ("sentences", put("text", 2, ""), "this one of 0 characters"),
    ],
)
def test_tables_that_cannot_be(
    copied: Callable[[str], Path], name: str, edit: Callable[[pa.Table], pa.Table], told: str
) -> None:
    folder = copied()
    change(folder, f"{name}.parquet", edit)
    with pytest.raises(BankCorrupt, match=told):
        reseal(folder).verify()


def test_no_row_stands_twice(copied: Callable[[str], Path]) -> None:
    folder = copied()

    def again(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table.slice(0, 20), table.slice(7, 1), table.slice(21)])

    change(folder, layout.CONTEXTS, again)
    bank = reseal(folder)
    with pytest.raises(BankCorrupt, match=rf"rows 7 and 20 are the same context, '.*{bank.context(7).word[:2]}"):
        bank.verify()


def test_equal_ranks_of_different_texts_are_two_contexts(copied: Callable[[str], Path]) -> None:
    folder = copied()
    ranks = pq.read_table(folder / layout.CONTEXTS)["rank"].to_pylist()
    first, last = open_bank(folder).context(0), open_bank(folder).context(169)
    assert first.sentence[: first.prefix_end] != last.sentence[: last.prefix_end]
    change(folder, layout.CONTEXTS, put("rank", 169, ranks[0]))
    reseal(folder).verify()


def test_another_model(banks: Callable[[str], Bank], causal_folder: Callable[..., Path]) -> None:
    with pytest.raises(BankMismatch, match=r"built with .*weights.*Load the bank's model"):
        banks().verify(model=load_model(causal_folder("qwen2")))


def test_another_tokenizer(
    banks: Callable[[str], Bank], tiny_causal: Model, causal_folder: Callable[..., Path]
) -> None:
    other = load_model(causal_folder("llama", bos=False)).tokenizer
    with pytest.raises(BankMismatch, match="built with another tokenizer"):
        banks().verify(model=replace(tiny_causal, tokenizer=other))


def test_sentences_that_are_not_those_of_the_rows(copied: Callable[[str], Path], tiny_causal: Model) -> None:
    folder = copied()

    def turned(table: pa.Table) -> pa.Table:
        """As long as before, so that every span is still inside; the words are others."""
        texts = pa.array([text[::-1] for text in table["text"].to_pylist()])
        return table.set_column(1, "text", texts)

    change(folder, layout.SENTENCES, turned)
    bank = reseal(folder)
    bank.verify()
    with pytest.raises(BankCorrupt, match=r"row \d+ is token \d+ at position \d+ of .*, where the tokenizer has"):
        bank.verify(model=tiny_causal)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_other_contexts(copied: Callable[[str], Path], tiny_causal: Model, dtype: str) -> None:
    """All rows moved up by one at one layer: each a fine direction, and none that of its context."""
    folder = copied(dtype)
    bank = open_bank(folder)
    overwrite(folder, 2, 0, bank.take(2, torch.arange(170).roll(1)))
    bank = reseal(folder)
    bank.verify()
    with pytest.raises(
        BankCorrupt, match=r"row \d+ \('.*' at position .*\) computed anew at layer 2 has cosine -?0\.\d+"
    ):
        bank.verify(model=tiny_causal)


@pytest.mark.parametrize("computed", ["bfloat16", "float16"])
@pytest.mark.parametrize("language_model", ["llama", "qwen2", "olmo2"])
def test_a_bank_computed_in_half_precision(
    causal_folder: Callable[..., Path], tmp_path: Path, computed: str, language_model: str
) -> None:
    model = load_model(causal_folder(language_model), dtype=computed)
    bank = build_bank(model, SENTENCES, tmp_path / "bank", dtype="float32")
    assert bank.provenance.settings["compute_dtype"] == computed
    bank.verify(model=model)


def test_tolerances_are_wide_enough_for_rounding_and_no_wider(banks: Callable[[str], Bank], tiny_causal: Model) -> None:
    row = {dtype: banks(dtype).take(3, torch.tensor([5])) for dtype in DTYPES}
    least = {dtype: module._least_cosine(banks(dtype), tiny_causal, 3, row[dtype]) for dtype in DTYPES}
    assert least["float32"] > 1 - 1e-6
    assert least["float16"] > 1 - 1e-5
    assert least["bfloat16"] > 1 - 1e-4
    assert least["int8"] > 1 - 1e-3
    assert least["float8_e4m3fn"] > 1 - 3e-3
