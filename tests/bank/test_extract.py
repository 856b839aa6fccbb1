import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SENTENCES
from patchlens.bank import extract as module
from patchlens.bank.extract import check_packing, choose_packing, extract, probe, unit
from patchlens.bank.pack import Packing, make_batches
from patchlens.bank.plan import Plan, Selection, make_plan
from patchlens.errors import ModelError, NonFiniteStates
from patchlens.inputs.corpus import read_corpus
from patchlens.models.loading import load_model
from patchlens.models.masking import packed_inputs
from patchlens.models.model import Model
from reference.contexts import states

LAYERS = (0, 1, 3)


def planned(model: Model, per_token: int = 1000) -> Plan:
    return make_plan(model.tokenizer, list(read_corpus(SENTENCES)), Selection(per_token))


def extracted(
    model: Model, plan: Plan, layers: tuple[int, ...] = LAYERS, packing: Packing | None = None
) -> dict[int, Tensor]:
    batches = make_batches(plan, packing or choose_packing(model, plan), range(len(plan.starts) - 1))
    rows = {layer: torch.full((len(plan), model.d_model), torch.nan) for layer in layers}
    for batch, found in extract(model, plan, layers, batches, "float32"):
        for layer, encoded in found.items():
            at = slice(batch.rows.start, batch.rows.stop)
            assert rows[layer][at].isnan().all(), "each row is given once"
            rows[layer][at] = encoded.vectors
    return rows


def one_at_a_time(model: Model, plan: Plan, layer: int) -> Tensor:
    texts = plan.sentences["text"].to_pylist()
    alone = [states(model, text, layer) for text in texts]
    found = [alone[row["sentence"]][row["position"]] for row in plan.contexts.to_pylist()]
    return torch.nn.functional.normalize(torch.stack(found), dim=-1)


PACKINGS = [
    Packing(packed=True, positions=1, packs=1),
    Packing(packed=True, positions=30, packs=3),
    Packing(packed=True, positions=512, packs=2),
    Packing(packed=False, positions=1, packs=1),
    Packing(packed=False, positions=100, packs=1),
]


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
@pytest.mark.parametrize("per_token", [1, 1000])
def test_rows_equal_those_of_one_sentence_at_a_time(tiny_causal: Model, packing: Packing, per_token: int) -> None:
    plan = planned(tiny_causal, per_token)
    for layer, rows in extracted(tiny_causal, plan, packing=packing).items():
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


def test_layers_come_in_the_stored_type(tiny_causal: Model) -> None:
    plan = planned(tiny_causal)
    batches = make_batches(plan, choose_packing(tiny_causal, plan), range(len(plan.starts) - 1))
    for dtype in ("float16", "int8"):
        for batch, found in extract(tiny_causal, plan, (1, 3), batches, dtype):
            assert set(found) == {1, 3}
            for encoded in found.values():
                assert encoded.vectors.dtype == getattr(torch, dtype)
                assert len(encoded.vectors) == len(batch.rows)
                assert (encoded.scales is None) == (dtype == "float16")


def test_the_packing_depends_on_model_and_plan_alone(tiny_causal: Model) -> None:
    plan = planned(tiny_causal)
    packing = choose_packing(tiny_causal, plan)
    assert packing == choose_packing(tiny_causal, plan)
    assert packing.packed
    assert packing.positions >= np.diff(plan.starts).max()


def test_a_model_that_mixes_the_runs_of_a_pack_is_refused(tiny_causal: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tiny_causal)
    packing = choose_packing(tiny_causal, plan)
    check_packing(tiny_causal, plan, LAYERS, packing)

    def leaky(model: Model, token_ids: Tensor, depths: Tensor, last: Tensor) -> dict[str, object]:
        return packed_inputs(model, token_ids, depths, torch.full_like(last, last.shape[1] - 1))

    monkeypatch.setattr(module, "packed_inputs", leaky)
    with pytest.raises(ModelError, match=r"directions at layer 1 differ by .*expected at most 0.0001"):
        check_packing(tiny_causal, plan, LAYERS, packing)


def test_a_probe_counts_prefixes(tiny_causal: Model) -> None:
    plan = planned(tiny_causal)
    began = time.perf_counter()
    rate = probe(tiny_causal, plan, (1,), choose_packing(tiny_causal, plan), seconds=0.1)
    assert rate > 0
    assert time.perf_counter() - began < 5


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
