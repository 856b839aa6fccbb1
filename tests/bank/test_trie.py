import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlens.bank.trie import build_trie, mixed

CORPORA = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=12)


def flat(sentences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([token for sentence in sentences for token in sentence], dtype=np.int32)
    return ids, np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])])


@settings(max_examples=200, deadline=None)
@given(CORPORA, st.integers(0, 5), st.data())
def test_nodes_are_the_distinct_prefixes_in_depth_first_order(
    sentences: list[list[int]], seed: int, data: st.DataObject
) -> None:
    ids, starts = flat(sentences)
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), dtype=bool)
    trie = build_trie(ids, eligible, starts, seed)

    prefixes = sorted({tuple(sentence[: end + 1]) for sentence in sentences for end in range(len(sentence))})
    owners = {prefix: -1 for prefix in prefixes}
    for number in reversed(range(len(sentences))):
        for depth in range(len(sentences[number])):
            if eligible[starts[number] + depth]:
                owners[tuple(sentences[number][: depth + 1])] = number

    def prefix_of(node: int) -> tuple[int, ...]:
        start = trie.starts[trie.path[node]]
        return tuple(trie.token_ids[start : start + trie.depth[node] + 1].tolist())

    found = [prefix_of(node) for node in range(len(trie.first))]
    assert found == prefixes
    assert trie.owner.tolist() == [owners[prefix] for prefix in prefixes]
    assert trie.token.tolist() == [prefix[-1] for prefix in prefixes]
    places = {prefix: node for node, prefix in enumerate(prefixes)}
    assert trie.parent.tolist() == [places.get(prefix[:-1], -1) for prefix in prefixes]
    for path in range(len(sentences)):
        start, stop = trie.starts[path : path + 2].tolist()
        tokens = trie.token_ids[start:stop].tolist()
        assert [prefixes[node] for node in trie.node_of[start:stop]] == [
            tuple(tokens[: end + 1]) for end in range(len(tokens))
        ]
    for node, prefix in enumerate(prefixes):
        rank = np.array([seed], dtype=np.uint64)
        for token in prefix:
            rank = mixed(rank, np.array([token]))
        assert trie.rank[node] == rank[0]


def test_equal_sentences_in_any_number_are_one_path_of_nodes() -> None:
    ids, starts = flat([[1, 2, 3]] * 1000)
    trie = build_trie(ids, np.ones(len(ids), dtype=bool), starts, 0)
    assert trie.token.tolist() == [1, 2, 3]
    assert trie.owner.tolist() == [0, 0, 0]
