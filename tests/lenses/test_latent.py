from dataclasses import replace

import pytest
import torch

from patchlens.bank.bank import Bank
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import BankNotFound, OptionError
from patchlens.lenses.latent import LatentLens


def brute_force(bank: Bank, queries: torch.Tensor, k: int) -> list[list[tuple[int, int]]]:
    """(contextual layer, row) of the k best of all rows of all layers, for each query."""
    rows = torch.cat([bank.vectors(layer).double() for layer in bank.layers])
    cosines = torch.nn.functional.cosine_similarity(queries.double()[:, None], rows[None], dim=-1).float()
    order = cosines.sort(dim=1, descending=True, stable=True).indices[:, :k].tolist()
    return [[(bank.layers[i // len(bank)], i % len(bank)) for i in best] for best in order]


def test_equals_a_brute_force_version(bank: Bank, states: HiddenStates) -> None:
    readings = LatentLens(bank).read(states, k=7)
    expected = brute_force(bank, states.vectors.flatten(0, 1), 7)
    assert [[(one.context_layer, one.bank_row) for one in reading.candidates] for reading in readings] == expected


def test_a_state_copied_from_the_bank_reads_back_as_itself(bank: Bank, states: HiddenStates) -> None:
    rows = torch.linspace(0, len(bank) - 1, 16).long()
    copied = torch.stack([37.5 * bank.vectors(layer)[rows].float() for layer in bank.layers])
    readings = LatentLens(bank).read(replace(states, vectors=copied, layers=bank.layers), k=1)
    for reading, row in zip(readings, rows.tolist() * len(bank.layers), strict=True):
        (best,) = reading.candidates
        context = bank.context(row)
        assert (best.bank_row, best.context_layer) == (row, reading.layer)
        assert best.similarity == pytest.approx(1, abs=1e-6)
        assert (best.word, best.token, best.sentence) == (context.word, context.token, context.sentence)
        assert (best.word_span, best.prefix_end) == (context.word_span, context.prefix_end)


def test_the_word_stands_where_it_says(bank: Bank, states: HiddenStates) -> None:
    for reading in LatentLens(bank).read(states):
        for candidate in reading.candidates:
            assert candidate.sentence is not None
            assert candidate.word_span is not None
            assert candidate.prefix_end is not None
            start, end = candidate.word_span
            assert candidate.sentence[start:end] == candidate.word
            assert start < candidate.prefix_end <= end


def test_contextual_layers_can_be_chosen(bank: Bank, states: HiddenStates) -> None:
    some = LatentLens(bank, layers=[3, 1])
    assert some.layers == (1, 3)
    found = {one.context_layer for reading in some.read(states) for one in reading.candidates}
    assert found == {1, 3}
    every = {one.context_layer for reading in LatentLens(bank).read(states) for one in reading.candidates}
    assert every == {1, 2, 3}


@pytest.mark.parametrize("layers", [9, [1, 9], []])
def test_contextual_layers_that_the_bank_lacks(bank: Bank, layers: int | list[int]) -> None:
    with pytest.raises(OptionError, match=r"1, 2, 3"):
        LatentLens(bank, layers=layers)


def test_opens_a_folder_by_itself(bank: Bank, states: HiddenStates) -> None:
    assert list(LatentLens(bank.folder).read(states)) == list(LatentLens(bank).read(states))


def test_a_bank_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(BankNotFound):
        LatentLens(f"{tmp_path}/nowhere")


def test_provenance_names_the_bank(bank: Bank, states: HiddenStates) -> None:
    (record,) = LatentLens(bank).read(states, k=2, layers=[0, 2]).provenance
    assert record["bank"] == bank.name
    assert record["bank_rows"] == len(bank)
    assert record["contextual_layers"] == [1, 2, 3]
    assert (record["k"], record["layers"], record["lens"]) == (2, [0, 2], "latent")
    assert record["bank_provenance"]["fingerprint"] == bank.provenance.fingerprint


def test_a_part_of_the_bank_is_a_smaller_bank(bank: Bank, states: HiddenStates) -> None:
    half, most = (LatentLens(bank, share=share, seed=3).read(states, k=5) for share in (0.5, 0.9))
    found = {one.bank_row for reading in half for one in reading.candidates}
    assert len(found) <= len(bank) / 2 + 1
    # What the whole bank finds in the part, in its order, is what the part finds.
    whole = LatentLens(bank).read(states, k=len(bank) * len(bank.layers))
    chosen = LatentLens(bank, share=0.5, seed=3)._where
    assert chosen is not None
    for small, large in zip(half, whole, strict=True):
        rows = [(one.bank_row, one.context_layer) for one in large.candidates if chosen[one.bank_row]]
        assert [(one.bank_row, one.context_layer) for one in small.candidates] == rows[:5]
    larger = LatentLens(bank, share=0.9, seed=3)._where
    assert larger is not None
    assert bool((larger | ~chosen).all())
    assert most.provenance[0]["share"] == 0.9
    assert not torch.equal(chosen, LatentLens(bank, share=0.5, seed=4)._where)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, 1e-9])
def test_a_share_that_is_none(bank: Bank, share: float) -> None:
    with pytest.raises(OptionError, match="leaves none"):
        LatentLens(bank, share=share)
