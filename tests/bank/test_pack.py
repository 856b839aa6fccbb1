import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_tokenizer
from patchlens.bank.pack import Batch, Packing, make_batches, pack
from patchlens.bank.plan import Plan, Selection, make_plan
from patchlens.errors import CorpusError
from patchlens.inputs.corpus import Sentence

TOKENIZER = make_tokenizer()
WORDS = st.lists(st.lists(st.sampled_from("a cat cats dog the sat".split()), min_size=1, max_size=7), min_size=1)
PACKINGS = st.builds(Packing, packed=st.booleans(), positions=st.integers(1, 40), packs=st.integers(1, 4))


def planned(texts: list[list[str]], per_token: int) -> Plan | None:
    sentences = [Sentence(" ".join(words), f"corpus:{number}") for number, words in enumerate(texts)]
    try:
        return make_plan(TOKENIZER, sentences, Selection(per_token))
    except CorpusError:
        return None


def path(plan: Plan, run: int) -> list[int]:
    return plan.token_ids[plan.starts[run] : plan.starts[run + 1]].tolist()


@settings(max_examples=150, deadline=None)
@given(WORDS, st.integers(1, 5), PACKINGS, st.data())
def test_every_token_sees_its_own_prefix_and_nothing_else(
    texts: list[list[str]], per_token: int, packing: Packing, data: st.DataObject
) -> None:
    plan = planned(texts, per_token)
    if plan is None:
        return
    runs = len(plan.starts) - 1
    cut = data.draw(st.integers(0, runs))
    batches = [*make_batches(plan, packing, range(cut)), *make_batches(plan, packing, range(cut, runs))]
    assert [run for batch in batches for run in batch.runs] == list(range(runs))
    assert [row for batch in batches for row in batch.rows] == list(range(len(plan)))
    assert sum(batch.positions for batch in batches) == plan.counts["prefixes_run"]
    for batch in batches:
        check(plan, batch, packing)


def check(plan: Plan, batch: Batch, packing: Packing) -> None:
    packs = pack(plan, batch)
    width = packs.token_ids.shape[1]
    assert len(packs.token_ids) == len(batch.cuts) - 1
    if packing.packed:
        longest = max(len(path(plan, run)) for run in batch.runs)
        assert len(packs.token_ids) <= packing.packs
        assert width <= max(packing.positions, longest)
    else:
        assert len(packs.token_ids) == len(batch.runs)
        assert len(batch.runs) == 1 or packs.token_ids.numel() <= packing.positions
    places = np.arange(width)
    seen = set()
    for number in range(len(packs.token_ids)):
        ids, depths, last = (tensor[number].numpy() for tensor in packs.inputs)
        for place in range(width):
            visible = (places <= place) & (place <= last)
            if not packs.real[number, place]:
                assert visible.sum() == 1, "padding sees itself alone"
                continue
            assert depths[visible].tolist() == list(range(visible.sum()))
            prefix = tuple(ids[visible].tolist())
            assert (number, prefix) not in seen, "each prefix once in a pack"
            seen.add((number, prefix))
    for row, number, place in zip(batch.rows, packs.pack_of_row.tolist(), packs.place_of_row.tolist(), strict=True):
        visible = (places <= place) & (place <= packs.last[number].numpy())
        whole = path(plan, plan.run_of_row[row])
        assert packs.token_ids[number].numpy()[visible].tolist() == whole[: plan.positions[row] + 1]


def test_packing_pads_and_repeats_little() -> None:
    rng = np.random.default_rng(0)
    words = [f"{letter}{vowel}" for letter in "bcdfghjklmnp" for vowel in "aeiou"]
    texts = [list(rng.choice(words, rng.integers(3, 12))) for _ in range(400)]
    plan = planned(texts, 10_000)
    assert plan is not None
    batches = make_batches(plan, Packing(packed=True, positions=256, packs=4), range(len(plan.starts) - 1))
    laid = sum(pack(plan, batch).token_ids.numel() for batch in batches)
    assert laid < 1.2 * plan.counts["prefixes_run"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_longer_than_a_pack_goes_alone(packed: bool) -> None:
    plan = planned([["cat"] * 30, ["dog"] * 2], 10_000)
    assert plan is not None
    batches = make_batches(plan, Packing(packed, positions=8, packs=2), range(len(plan.starts) - 1))
    for batch in batches:
        check(plan, batch, Packing(packed, positions=8, packs=2))
