"""Packed = one by one, for every causal family that transformers has and for the language models inside VLMs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.causal import LONGEST, ONE_A_ROW, QUARANTINE, SPECIAL, VARIANTS, tiny_folder
from conformance.tries import alone, implementations, one_by_one, packed_difference, row_difference, tries
from conftest import SENTENCES, make_tokenizer
from patchlens.bank.extract import choose_packing, extract
from patchlens.bank.pack import make_batches
from patchlens.bank.plan import Selection, make_plan
from patchlens.inputs.corpus import read_corpus
from patchlens.models.families.causal import CausalAdapter
from patchlens.models.loading import load_model
from patchlens.models.masking import why_not_packed
from patchlens.models.model import Model
from patchlens.models.quiet import quiet

TYPES = CausalAdapter.model_types
PACKED = [name for name in (*TYPES, *VARIANTS) if name not in ONE_A_ROW and name not in QUARANTINE]
REPRESENTATIVE = ("llama", "qwen2", "olmo2", "gemma2", "gemma3_text", "gpt2", "opt", "phi3", "mistral")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return make_tokenizer()


def load(name: str, folder: Path, tokenizer: object) -> Model:
    with quiet():  # some configs do not like the padding token of others
        return load_model(tiny_folder(name, folder, tokenizer))


def test_the_table_names_families_of_the_registry() -> None:
    assert {*SPECIAL, *QUARANTINE, *(model_type for model_type, _ in VARIANTS.values())} <= {*TYPES}
    assert {*ONE_A_ROW} <= {*TYPES, *VARIANTS}
    assert not {*ONE_A_ROW} & {*QUARANTINE}


@pytest.mark.parametrize("name", PACKED)
def test_packed_is_one_by_one(name: str, tmp_path: Path, tokenizer: object) -> None:
    model = load(name, tmp_path, tokenizer)
    assert why_not_packed(model, LONGEST) is None
    packs = tries(len(tokenizer))
    for implementation in implementations(model):
        expected = one_by_one(model, packs)
        assert packed_difference(model, packs, expected) <= TOLERANCE, implementation
        assert row_difference(model, packs, expected) <= TOLERANCE, implementation


@pytest.mark.parametrize("name", ONE_A_ROW)
def test_what_cannot_be_packed_says_why_and_runs_in_rows(name: str, tmp_path: Path, tokenizer: object) -> None:
    model = load(name, tmp_path, tokenizer)
    assert re.search(ONE_A_ROW[name], why_not_packed(model, LONGEST) or "")
    packs = tries(len(tokenizer))
    expected = one_by_one(model, packs)
    assert row_difference(model, packs, expected) <= TOLERANCE
    try:
        difference = packed_difference(model, packs, expected)
    except (IndexError, RuntimeError, ValueError):  # positions or masks of the wrong shape
        return
    assert not difference < 0.01, "it can be packed: take it off the list"


@pytest.mark.parametrize("name", QUARANTINE)
def test_what_is_in_quarantine_cannot_be_loaded(name: str, tmp_path: Path, tokenizer: object) -> None:
    _, said = QUARANTINE[name]
    with pytest.raises(Exception, match=said):
        load(name, tmp_path, tokenizer)


@pytest.mark.parametrize("language_model", ["llama", "qwen2", "olmo2"])
def test_language_models_inside_vlms(llava_folder: Callable[..., Path], language_model: str) -> None:
    model = load_model(llava_folder("clip", language_model))
    assert why_not_packed(model, LONGEST) is None
    packs = tries(len(model.tokenizer))
    assert packed_difference(model, packs, one_by_one(model, packs)) <= TOLERANCE


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_bank_holds_the_states_of_one_sentence_at_a_time(
    name: str, padding_side: str, bos: bool, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(bos=bos, padding_side=padding_side)
    model = load_model(tiny_folder(name, tmp_path, tokenizer, max_position_embeddings=64, n_positions=64))
    plan = make_plan(model.tokenizer, read_corpus(SENTENCES), Selection(per_token=1000))
    packing = choose_packing(model, plan)
    assert packing.packed
    layers = range(model.n_layers + 1)
    batches = make_batches(plan, packing, range(len(plan.starts) - 1))
    parts = [rows for _, rows in extract(model, plan, layers, batches, "float32")]
    ids = [tuple(model.tokenizer(text)["input_ids"]) for text in plan.sentences["text"].to_pylist()]
    expected = alone(model, ids)
    places = list(zip(plan.contexts["sentence"].to_pylist(), plan.contexts["position"].to_pylist(), strict=True))
    for layer in layers:
        found = torch.cat([part[layer].vectors for part in parts])
        states = torch.stack([expected[sentence][layer][position] for sentence, position in places])
        assert (found - torch.nn.functional.normalize(states, dim=-1)).norm(dim=-1).max() <= TOLERANCE
