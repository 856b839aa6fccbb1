import pytest

from patchlens.bank.bank import Bank
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError
from patchlens.lenses.baseline import RandomLens


def test_rows_are_different_real_and_seeded(bank: Bank, states: HiddenStates) -> None:
    one, again, other = (RandomLens(bank, seed=seed).read(states, k=4, layers=[0, 1]) for seed in (0, 0, 1))
    rows = one.table["bank_row"].to_numpy().reshape(-1, 4)
    assert all(len(set(row)) == 4 for row in rows.tolist())
    assert len(set(rows.flatten().tolist())) > len(bank) // 2
    assert one.table.equals(again.table)
    assert not one.table.equals(other.table)
    first = next(iter(one)).candidates[0]
    assert first.word == bank.context(int(rows[0, 0])).word
    assert first.similarity is None


def test_each_read_draws_anew(bank: Bank, states: HiddenStates) -> None:
    lens = RandomLens(bank)
    assert not lens.read(states, k=4).table["bank_row"].equals(lens.read(states, k=4).table["bank_row"])


def test_more_rows_than_there_are(bank: Bank, states: HiddenStates) -> None:
    with pytest.raises(OptionError, match="different rows were asked"):
        RandomLens(bank).read(states, k=len(bank) + 1)


def test_nearly_all_rows_of_a_bank(bank: Bank, states: HiddenStates) -> None:
    rows = RandomLens(bank).read(states, k=len(bank), layers=0).table["bank_row"].to_numpy().reshape(-1, len(bank))
    assert all(sorted(row) == list(range(len(bank))) for row in rows.tolist())
