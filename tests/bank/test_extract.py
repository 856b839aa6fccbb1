from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SENTENCES
from patchlens.bank import extract as module
from patchlens.bank.extract import extract, unit
from patchlens.bank.plan import Plan, Selection, make_plan
from patchlens.errors import NonFiniteStates
from patchlens.inputs.corpus import read_corpus
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from reference.contexts import states

LAYERS = (0, 1, 3)


def planned(model: Model, per_token: int = 1000) -> Plan:
    return make_plan(model.tokenizer, list(read_corpus(SENTENCES)), Selection(per_token))


def extracted(model: Model, plan: Plan, layers: tuple[int, ...] = LAYERS) -> dict[int, Tensor]:
    rows = {layer: torch.full((len(plan), model.d_model), torch.nan) for layer in layers}

    def write(layer: int, at: Tensor, vectors: Tensor) -> None:
        assert rows[layer][at].isnan().all(), "each row is written once"
        rows[layer][at] = vectors

    extract(model, plan, layers, write)
    return rows


def one_at_a_time(model: Model, plan: Plan, layer: int) -> Tensor:
    texts = plan.sentences["text"].to_pylist()
    alone = [states(model, text, layer) for text in texts]
    found = [alone[row["sentence"]][row["position"]] for row in plan.contexts.to_pylist()]
    return torch.nn.functional.normalize(torch.stack(found), dim=-1)


@pytest.mark.parametrize("batch", [1, 60, 4096])
@pytest.mark.parametrize("per_token", [1, 1000])
def test_rows_equal_those_of_one_sentence_at_a_time(
    tiny_causal: Model, monkeypatch: pytest.MonkeyPatch, batch: int, per_token: int
) -> None:
    monkeypatch.setattr(module, "BATCH_POSITIONS", batch)
    plan = planned(tiny_causal, per_token)
    for layer, rows in extracted(tiny_causal, plan).items():
        torch.testing.assert_close(rows, one_at_a_time(tiny_causal, plan, layer), atol=1e-5, rtol=0)


@pytest.mark.parametrize("language_model", ["llama", "qwen2", "olmo2"])
@pytest.mark.parametrize("bos", [True, False])
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(
    causal_folder: Callable[..., Path], language_model: str, bos: bool
) -> None:
    right, left = (load_model(causal_folder(language_model, bos=bos, padding_side=side)) for side in ("right", "left"))
    plan = planned(left)
    assert plan.contexts.equals(planned(right).contexts)
    rows, expected = extracted(left, plan), extracted(right, plan)
    for layer in LAYERS:
        assert torch.equal(rows[layer], expected[layer])
        torch.testing.assert_close(rows[layer], one_at_a_time(left, plan, layer), atol=1e-5, rtol=0)


def test_a_vision_language_model_is_run_as_its_language_model(tiny_llava: Model) -> None:
    plan = planned(tiny_llava)
    for layer, rows in extracted(tiny_llava, plan).items():
        torch.testing.assert_close(rows, one_at_a_time(tiny_llava, plan, layer), atol=1e-5, rtol=0)


def test_only_what_is_wanted_is_run(tiny_causal: Model) -> None:
    def never(*_: object) -> None:
        pytest.fail("this part must not run")

    before = [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in tiny_causal.blocks]
    head = tiny_causal.network.get_output_embeddings()
    guards = [part.register_forward_pre_hook(never) for part in (head, *tiny_causal.blocks[2:])]
    try:
        extracted(tiny_causal, planned(tiny_causal), (1, 2))
    finally:
        for guard in guards:
            guard.remove()
    after = [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in tiny_causal.blocks]
    assert after == before, "no hook stays behind"


def test_progress_counts_positions(tiny_causal: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_POSITIONS", 60)
    plan, seen = planned(tiny_causal), []
    extract(tiny_causal, plan, (1,), lambda *_: None, lambda *report: seen.append(report))
    assert seen[0] == ("run", 0, len(plan.token_ids))
    assert seen[-1] == ("run", len(plan.token_ids), len(plan.token_ids))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_batches_hold_every_run_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 700, 500)
    batches = list(module._batches(lengths))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= module.BATCH_POSITIONS for batch in batches)
    assert len(batches) < lengths.sum() / module.BATCH_POSITIONS * 1.3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_states_without_a_direction(causal_folder: Callable[..., Path], value: float) -> None:
    model = load_model(causal_folder("llama"))
    word = model.tokenizer(SENTENCES[2])["input_ids"][3]
    with torch.no_grad():
        model.input_embeddings[word] = value
    with pytest.raises(NonFiniteStates, match=r"layer 0, position \d+ of '.*corpus:\d"):
        extracted(model, planned(model))


def test_unit_survives_any_scale() -> None:
    vectors = torch.tensor([[3.0, 4.0]])
    for scale in (1e-38, 1.0, 1e37):
        torch.testing.assert_close(unit(vectors * scale), vectors / 5)
    assert unit(torch.zeros(1, 2)).isnan().all()
