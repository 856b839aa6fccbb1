import numpy as np
import pytest

from patchlens.bank import spread
from patchlens.bank.spread import PREFIXES_PER_ROW, needed_nodes
from patchlens.bank.trie import Trie, build_trie


def zipf_trie(sentences: int, vocabulary: int = 400, seed: int = 0) -> Trie:
    """Sentences of words as frequent as words are: a few make up half of the text."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary + 1)
    lengths = rng.integers(4, 16, sentences)
    ids = rng.choice(vocabulary, lengths.sum(), p=weights / weights.sum()).astype(np.int32) + 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids[starts[:-1]] = 0
    return build_trie(ids, ids > 0, starts, seed)


def kept_per_token(trie: Trie, needed: np.ndarray, per_token: int) -> np.ndarray:
    return np.minimum(np.bincount(trie.token[needed & (trie.owner >= 0)], minlength=401), per_token)


@pytest.fixture(autouse=True)
def _no_free_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_FREE_PREFIXES", 0)


@pytest.mark.parametrize("per_token", [1, 5, 20])
def test_no_token_is_lost_and_the_budget_holds(per_token: int) -> None:
    trie = zipf_trie(3000)
    needed = needed_nodes(trie, per_token)
    kept = kept_per_token(trie, needed, per_token)
    available = np.bincount(trie.token[trie.owner >= 0], minlength=401)
    assert ((kept > 0) == (available > 0)).all()
    full = np.minimum(available, per_token).sum()
    assert needed.sum() <= PREFIXES_PER_ROW * kept.sum() or per_token == 1, "a first context is given at any price"
    assert kept.sum() > 0.4 * full


def test_it_runs_far_less_for_a_row_than_what_comes_first() -> None:
    trie = zipf_trie(3000)
    needed = needed_nodes(trie, 20)
    rows = kept_per_token(trie, needed, 20).sum()
    order = np.lexsort((trie.depth, trie.owner, trie.token))
    token = trie.token[order]
    place = np.arange(len(order)) - np.searchsorted(token, token)
    first = order[(place < 20) & (trie.owner[order] >= 0)]
    run = closure(trie, first)
    assert needed.sum() / rows < 0.75 * run / len(first)


def closure(trie: Trie, nodes: np.ndarray) -> int:
    run, parent = set(), trie.parent
    for node in nodes.tolist():
        while node >= 0 and node not in run:
            run.add(node)
            node = int(parent[node])
    return len(run)


def test_what_is_run_is_closed_under_beginnings() -> None:
    trie = zipf_trie(500)
    needed = needed_nodes(trie, 5)
    parent = trie.parent
    assert needed[parent[needed & (parent >= 0)]].all()


def test_the_choice_ignores_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_CHUNK", 512)
    rng = np.random.default_rng(1)
    sentences = [rng.integers(1, 60, rng.integers(2, 9)).astype(np.int32) for _ in range(400)]
    found = []
    for order in (range(400), rng.permutation(400)):
        ids = np.concatenate([sentences[number] for number in order])
        starts = np.concatenate([[0], np.cumsum([len(sentences[number]) for number in order])])
        trie = build_trie(ids, np.ones(len(ids), dtype=bool), starts, 3)
        found.append(trie.rank[needed_nodes(trie, 4)])
    assert np.array_equal(*found)


def test_a_small_corpus_keeps_all_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    trie = zipf_trie(300)
    assert (
        kept_per_token(trie, needed_nodes(trie, 10_000), 10_000)
        == np.bincount(trie.token[trie.owner >= 0], minlength=401)
    ).all()
