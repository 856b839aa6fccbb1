import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import foreign, importing
from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.encoding import DTYPES
from patchlens.bank.importing import import_bank
from patchlens.capture.capture import capture
from patchlens.errors import BankCorrupt, BankMismatch, BankNotFound, ModelError, OptionError
from patchlens.lenses.latent import LatentLens
from patchlens.models.model import Model
from patchlens.search.exact import ExactIndex
from patchlens.views.page import write_page
from reference.latentlens import Cache, built, saved, searched, small


@pytest.fixture(scope="module")
def caches(tiny_causal: Model) -> dict[int, Cache]:
    return built(tiny_causal, SENTENCES, (1, 3))


@pytest.fixture
def folder(caches: dict[int, Cache], tmp_path: Path) -> Path:
    return saved(tmp_path / "index", caches)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_answers_as_the_reference_does(
    caches: dict[int, Cache], folder: Path, tmp_path: Path, tiny_causal: Model, dtype: str
) -> None:
    bank = import_bank(folder, tmp_path / "bank", model=tiny_causal, dtype=dtype)
    torch.manual_seed(1)
    queries = torch.randn(20, tiny_causal.d_model) * 30
    matches = ExactIndex(bank).search(queries, k=5)
    tolerance = 1e-3 if DTYPES[dtype].dtype.itemsize > 1 and dtype != "bfloat16" else 0.03
    for number, expected in enumerate(searched(caches, queries, 5)):
        found = list(zip(matches.layers[number].tolist(), matches.rows[number].tolist(), strict=True))
        similarities = matches.similarities[number].tolist()
        assert [each[2] for each in expected] == pytest.approx(similarities, abs=tolerance)
        if tolerance == 1e-3:
            assert found == [each[:2] for each in expected]


def test_what_it_says_of_itself(folder: Path, tmp_path: Path, tiny_causal: Model) -> None:
    bank = import_bank(folder, tmp_path / "bank", model=tiny_causal)
    bank.verify()
    bank.verify(model=tiny_causal)
    made = bank.provenance
    assert (bank.layers, bank.d_model, bank.dtype) == ((1, 3), 32, "float16")
    assert (made.fingerprint, made.tokenizer) == (tiny_causal.fingerprint, tiny_causal.tokenizer_fingerprint)
    assert made.created is None
    assert made.settings["choose"] == "imported"
    assert made.settings["per_token"] is None
    assert made.settings["imported"] == {"exact": len(bank), "found": 0, "not_found": 0, "warnings": []}
    assert bank.manifest.corpus["sentences"] == len(SENTENCES) == len(bank.sentences)
    bank.check(tiny_causal.fingerprint, 32)


def test_with_the_model_tokens_stand_where_its_tokenizer_says(
    caches: dict[int, Cache], folder: Path, tmp_path: Path, tiny_causal: Model
) -> None:
    bank = import_bank(folder, tmp_path / "bank", model=tiny_causal)
    for row, said in enumerate(caches[1]["metadata"]):
        context = bank.context(row)
        assert (context.sentence, context.position) == (said["caption"], said["position"])
        offsets = tiny_causal.tokenizer(said["caption"], return_offsets_mapping=True)["offset_mapping"]
        start, end = offsets[said["position"]]
        assert context.prefix_end == end
        assert context.sentence[slice(*context.word_span)] == context.word
        assert context.word_span[0] <= start + 1 <= end <= context.word_span[1] + 1
        assert context.token == tiny_causal.tokenizer.convert_ids_to_tokens(said["token_id"])
    assert "strawberries" in {bank.context(row).word for row in range(len(bank))}


def test_without_the_model_tokens_are_looked_for(folder: Path, tmp_path: Path, tiny_causal: Model) -> None:
    (folder / "metadata.json").write_text(json.dumps({"model_name": "some/model"}))
    bank = import_bank(folder, tmp_path / "bank")
    exact = import_bank(folder, tmp_path / "exact", model=tiny_causal)
    bank.verify()
    assert bank.provenance.model == "some/model"
    assert bank.provenance.settings["imported"]["found"] == len(bank)
    same = [bank.context(row).word == exact.context(row).word for row in range(len(bank))]
    assert sum(same) > 0.9 * len(same)
    for row in range(len(bank)):
        context = bank.context(row)
        assert context.sentence[slice(*context.word_span)] == context.word
    assert torch.equal(bank.vectors(3), exact.vectors(3))


def test_without_the_model_only_other_models_may_look(folder: Path, tmp_path: Path, tiny_causal: Model) -> None:
    bank = import_bank(folder, tmp_path / "bank")
    with pytest.raises(BankMismatch):
        bank.check(tiny_causal.fingerprint, 32)
    bank.check(tiny_causal.fingerprint, 32, allow_other_model=True)


def test_a_token_that_its_sentence_lacks_is_its_own_word(tmp_path: Path) -> None:
    cache = small()
    cache["metadata"][1] |= {"token_str": " dog"}
    cache["metadata"][2] |= {"token_str": "\ufffd"}
    bank = import_bank(saved(tmp_path / "index", {2: cache}), tmp_path / "bank")
    bank.verify()
    assert [bank.context(row).word for row in range(3)] == ["cat", "dog", "\ufffd"]
    assert [bank.context(row).word_span for row in range(3)] == [(4, 7), (7, 7), (7, 7)]
    assert bank.context(1).prefix_end == 7
    assert bank.provenance.settings["imported"]["not_found"] == 2


def test_a_lens_and_a_page_take_such_a_word(tmp_path: Path, tiny_causal: Model) -> None:
    cache = small(3, 32)
    cache["metadata"][1] |= {"token_str": "\ufffd"}
    bank = import_bank(saved(tmp_path / "index", {2: cache}), tmp_path / "bank")
    states = capture(tiny_causal, prompt="A cat", positions="all", layers=2)
    readings = LatentLens(bank, allow_other_model=True).read(states, k=3)
    said = next(iter(readings)).candidates
    assert {(found.word, found.sentence, found.word_span, found.prefix_end) for found in said} == {
        ("cat", "the cat", (4, 7), 7),
        ("\ufffd", "the cat", (7, 7), 7),
    }
    assert "the cat" in write_page(readings, tmp_path / "page.html").read_text()


@pytest.mark.parametrize("dtype", foreign._FLOATS)
def test_the_papers_pipeline(caches: dict[int, Cache], tmp_path: Path, dtype: torch.dtype) -> None:
    """Raw lengths, more keys, layers under another name in metadata.json."""
    more = {layer: {**cache, "token_to_indices": {" a": [0, 1]}} for layer, cache in caches.items()}
    folder = saved(tmp_path / "index", {layer: more[layer] for layer in (1, 3)}, dtype, unit=False)
    (folder / "metadata.json").write_text(json.dumps({"layers_extracted": [1, 3], "model_name": "x"}))
    (folder / "progress.json").write_text("{}")
    (folder / "layer_1" / "token_embeddings.json").write_text("{}")
    bank = import_bank(folder, tmp_path / "bank", dtype="float32")
    bank.verify()
    for layer in (1, 3):
        raw = caches[layer]["embeddings"].to(dtype).float()
        torch.testing.assert_close(bank.vectors(layer), torch.nn.functional.normalize(raw, dim=-1))


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "index")
    one, other = import_bank(folder, tmp_path / "one"), import_bank(moved, tmp_path / "other")
    for path in one.folder.iterdir():
        assert path.read_bytes() == (other.folder / path.name).read_bytes()


def test_chosen_layers(folder: Path, tmp_path: Path) -> None:
    assert import_bank(folder, tmp_path / "bank", layers=3).layers == (3,)
    with pytest.raises(OptionError, match="'2' are not among those that it holds, 1, 3"):
        import_bank(folder, tmp_path / "bank2", layers="2")
    shutil.rmtree(folder / "layer_1")
    with pytest.raises(BankCorrupt, match=r"layer_1.embeddings_cache\.pt is missing.*the others are 3"):
        import_bank(folder, tmp_path / "bank2")
    assert import_bank(folder, tmp_path / "bank2", layers="3").layers == (3,)


def test_a_big_bank_takes_many_blocks_and_files(
    caches: dict[int, Cache], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_bank(folder, tmp_path / "whole")
    monkeypatch.setattr(layout, "SHARD_BYTES", 64 * 50)
    monkeypatch.setattr(importing, "_BLOCK_BYTES", 4 * 32 * 7)
    reports: list[tuple[str, int, int]] = []
    split = import_bank(folder, tmp_path / "split", report=lambda *said: reports.append(said))
    assert len(split.shards[1]) > 2
    for layer in (1, 3):
        assert torch.equal(split.vectors(layer), whole.vectors(layer))
    assert {stage for stage, _, _ in reports} == {"import"}
    done = [done for _, done, _ in reports]
    assert done == sorted(done)
    assert reports[-1][1] == reports[-1][2] == sum(path.stat().st_size for path in folder.glob("*/*.pt"))


def test_rows_keep_a_number_of_their_own(tmp_path: Path) -> None:
    """Other banks are compared by it: the same for the same sentence, position and token, and never twice."""
    cache = small(4)
    for row in (0, 2, 3):
        cache["metadata"][row]["position"] = 0
    with pytest.warns(UserWarning, match="2 of 4 rows are contexts that earlier rows are already"):
        one = import_bank(saved(tmp_path / "one", {1: cache}), tmp_path / "bank1")
    one.verify()
    ranks = one.contexts["rank"].to_pylist()
    assert len(set(ranks)) == 4
    turned = {"metadata": cache["metadata"][1::-1], "embeddings": cache["embeddings"][:2]}
    other = import_bank(saved(tmp_path / "two", {1: turned}), tmp_path / "bank2")
    assert other.contexts["rank"].to_pylist() == ranks[1::-1]


def told(bank: Bank) -> list[str]:
    imported: Any = bank.provenance.settings["imported"]
    return list(imported["warnings"])


class TestPaddingOnTheLeft:
    @pytest.fixture
    def damaged(self, tiny_causal: Model, tmp_path: Path) -> Path:
        return saved(tmp_path / "index", built(tiny_causal, SENTENCES, (1,), padding_side="left"))

    def test_rows_of_padding_are_left_out_and_told(self, damaged: Path, tmp_path: Path, tiny_causal: Model) -> None:
        """Whether they have a direction or not: what a model gives there is anything."""
        path = damaged / "layer_1" / "embeddings_cache.pt"
        cache = torch.load(path)
        texts = [row["token_str"] for row in cache["metadata"]]
        padding = [row for row, text in enumerate(texts) if text in ("<pad>", "<s>")]
        assert 0 < len(padding) < len(texts)
        cache["embeddings"][padding[0]] = torch.nan
        torch.save(cache, path)
        for model in (None, tiny_causal):
            with pytest.warns(UserWarning, match="padding") as caught:
                bank = import_bank(damaged, tmp_path / str(model is None), model=model)
            assert told(bank) == [str(warning.message) for warning in caught]
            assert f"{len(padding)} of {len(texts)} rows are padding or the start of a text ('<pad>')" in told(bank)[0]
            assert len(bank) == len(texts) - len(padding)
            bank.verify(model=model)
            rest = [row for row in range(len(texts)) if row not in padding]
            torch.testing.assert_close(bank.vectors(1).float(), cache["embeddings"][rest].float(), atol=1e-3, rtol=0)

    def test_the_same_tokens_inside_a_sentence_are_a_part_of_it(self, tmp_path: Path) -> None:
        cache = small(4)
        for row, text in ((0, "<s>"), (2, "</s>"), (3, "<unk>")):
            cache["metadata"][row]["token_str"] = text
        assert len(import_bank(saved(tmp_path / "index", {1: cache}), tmp_path / "bank")) == 4

    def test_nothing_but_padding(self, tmp_path: Path) -> None:
        cache = small()
        for row in range(3):
            cache["metadata"][row] |= {"token_str": "<pad>", "position": row + 2}
        with pytest.raises(BankCorrupt, match="all of its 3 rows are padding"):
            import_bank(saved(tmp_path / "index", {1: cache}), tmp_path / "bank")

    def test_with_the_model_positions_are_put_right(self, damaged: Path, tmp_path: Path, tiny_causal: Model) -> None:
        with pytest.warns(UserWarning, match="padding") as caught:
            bank = import_bank(damaged, tmp_path / "bank", model=tiny_causal)
        assert any("where padding on the left moved them" in str(warning.message) for warning in caught)
        imported: Any = bank.provenance.settings["imported"]
        assert imported["exact"] == len(bank)
        for row in range(len(bank)):
            context = bank.context(row)
            own = tiny_causal.tokenizer(context.sentence)["input_ids"]
            assert tiny_causal.tokenizer.convert_ids_to_tokens(own[context.position]) == context.token

    def test_lost_ends_are_told_where_there_are_enough_rows(
        self,
        caches: dict[int, Cache],
        tmp_path: Path,
        tiny_causal: Model,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(importing, "_ENOUGH", 30)
        metadata = caches[1]["metadata"]
        early = [row for row, said in enumerate(metadata) if said["position"] < 8]
        part = {"embeddings": caches[1]["embeddings"][early], "metadata": [metadata[row] for row in early]}
        sound = import_bank(saved(tmp_path / "sound", caches), tmp_path / "bank1", model=tiny_causal)
        assert told(sound) == []
        with pytest.warns(UserWarning, match="rows stand in the last third of their sentences"):
            damaged = import_bank(saved(tmp_path / "damaged", {1: part}), tmp_path / "bank2", model=tiny_causal)
        assert len(told(damaged)) == 1


def test_the_last_layer_is_after_the_norm_there(caches: dict[int, Cache], tmp_path: Path, tiny_causal) -> None:
    with pytest.warns(UserWarning, match="after the final norm"):
        import_bank(saved(tmp_path / "index", {4: caches[3]}), tmp_path / "bank", model=tiny_causal)


def other_row(cache: Cache, **changes: object) -> Cache:
    return {**cache, "metadata": [cache["metadata"][0], {**cache["metadata"][1], **changes}, cache["metadata"][2]]}


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (small(4), "holds 4 rows of 4 dimensions, but the folder's first layer 3 of 4"),
        (small(3, 5), "holds 3 rows of 5 dimensions, but the folder's first layer 3 of 4"),
        (other_row(small(), token_id=6), "row 1 is .*'token_id': 6.*at the folder's first layer it is .*'token_id': 5"),
        (other_row(small(), position=0), "row 1 is .*'position': 0"),
        (other_row(small(), caption="a cat"), "row 1 is .*'caption': 'a cat'.*'caption': 'the cat'"),
        (other_row(small(), token_str="cat"), "row 1 is .*'token_str': 'cat'"),
    ],
)
def test_layers_that_disagree_are_refused(tmp_path: Path, second: Cache, told: str) -> None:
    folder = saved(tmp_path / "index", {1: small(), 2: second})
    with pytest.raises(BankCorrupt, match=rf"layer_2.*{told}"):
        import_bank(folder, tmp_path / "bank")
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "not whole JSON"), ("[]", "holds a list, expected an object"), ("[" * 100_000, "not whole JSON")],
)
def test_a_broken_metadata_json(folder: Path, tmp_path: Path, content: str, told: str) -> None:
    (folder / "metadata.json").write_text(content)
    with pytest.raises(BankCorrupt, match=rf"metadata\.json .*{told}.*not needed"):
        import_bank(folder, tmp_path / "bank")
    (folder / "metadata.json").unlink()
    assert import_bank(folder, tmp_path / "bank").provenance.model == "unknown"


def test_names_in_metadata_json_that_are_none(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.json").write_text(json.dumps({"layers": "all", "model_name": ["x"]}))
    assert import_bank(folder, tmp_path / "bank").provenance.model == "unknown"


def test_not_a_folder_of_the_reference(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BankNotFound, match="no such folder"):
        import_bank(tmp_path / "absent", tmp_path / "bank")
    (tmp_path / "empty" / "layer_one").mkdir(parents=True)
    with pytest.raises(BankNotFound, match=r"no layer_N/embeddings_cache\.pt"):
        import_bank(tmp_path / "empty", tmp_path / "bank")
    bank = import_bank(folder, tmp_path / "bank")
    with pytest.raises(BankNotFound, match="a bank already"):
        import_bank(bank.folder, tmp_path / "again")


def test_another_model(folder: Path, tmp_path: Path, tiny_causal: Model, caches: dict[int, Cache]) -> None:
    wide = saved(tmp_path / "wide", {1: small(3, 64)})
    with pytest.raises(BankMismatch, match=r"64-dimensional rows.*32 dimensions"):
        import_bank(wide, tmp_path / "bank", model=tiny_causal)
    cache = small(3, 32)
    cache["metadata"][1]["token_id"] = 10_000
    with pytest.raises(BankMismatch, match="the token id 10,000"):
        import_bank(saved(tmp_path / "ids", {1: cache}), tmp_path / "bank", model=tiny_causal)
    with pytest.raises(BankMismatch, match=r"layer 5.*has 4 blocks"):
        import_bank(saved(tmp_path / "deep", {5: caches[3]}), tmp_path / "bank", model=tiny_causal)
    assert not (tmp_path / "bank").exists()


def test_a_tokenizer_without_offsets(
    folder: Path, tmp_path: Path, tiny_causal: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_causal.tokenizer), "is_fast", False)
    with pytest.raises(ModelError, match="not a fast tokenizer"):
        import_bank(folder, tmp_path / "bank", model=tiny_causal)


def test_options_and_places(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dtype is 'int4'"):
        import_bank(folder, tmp_path / "bank", dtype="int4")
    import_bank(folder, tmp_path / "bank")
    with pytest.raises(OptionError, match="not empty"):
        import_bank(folder, tmp_path / "bank")
    assert import_bank(folder, tmp_path / "bank", layers=1, overwrite=True).layers == (1,)
    assert open_bank(tmp_path / "bank").layers == (1,)
