import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SENTENCES, make_tokenizer
from patchlens.bank.plan import RULES, Plan, Selection, load_plan, make_plan
from patchlens.errors import CorpusError, ModelError, OptionError
from patchlens.inputs.corpus import Sentence
from reference.contexts import contexts

TOKENIZER = make_tokenizer()
ALL = Selection(per_token=10_000)


def corpus(*texts: str) -> list[Sentence]:
    return [Sentence(text, f"corpus:{number}") for number, text in enumerate(texts, start=1)]


def kept(plan: Plan) -> list[tuple[str, int, str, str]]:
    """(sentence, position, token, word) of each row."""
    texts = plan.sentences["text"].to_pylist()
    rows = plan.contexts.select(["sentence", "position", "token", "word"]).to_pylist()
    return [(texts[row["sentence"]], row["position"], row["token"], row["word"]) for row in rows]


def prefixes(plan: Plan) -> list[tuple[int, ...]]:
    """The token ids that are run for each row, up to the row's own position."""
    positions = plan.contexts["position"].to_pylist()
    starts = plan.starts[plan.run_of_row].tolist()
    ids = plan.token_ids.tolist()
    return [tuple(ids[start : start + position + 1]) for start, position in zip(starts, positions, strict=True)]


def words_in(rng: random.Random) -> str:
    return " ".join(rng.choice("a cat cats dog the The sat ran".split()) for _ in range(rng.randint(1, 6)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("a cat cats dog <s> é 🙂".split()), min_size=1, max_size=6), min_size=1))
def test_without_a_cap_all_distinct_prefixes_are_kept_once(texts: list[list[str]]) -> None:
    sentences = [" ".join(words) for words in texts]
    expected = contexts(TOKENIZER, sentences)
    if not expected:
        with pytest.raises(CorpusError):
            make_plan(TOKENIZER, corpus(*sentences), ALL)
        return
    plan = make_plan(TOKENIZER, corpus(*sentences), ALL)
    found = prefixes(plan)
    assert sorted(found) == sorted(expected)
    sources = plan.sentences["source"].to_pylist()
    for prefix, row in zip(found, plan.contexts.to_pylist(), strict=True):
        number, position = expected[prefix]
        assert (sources[row["sentence"]], row["position"]) == (f"corpus:{number + 1}", position)
        assert row["token_id"] == prefix[-1]


def run_once(plan: Plan) -> list[tuple[int, ...]]:
    """The prefixes that are run: of each run those that it does not share with the one before it."""
    ids = plan.token_ids.tolist()
    return [
        tuple(ids[start : start + length + 1])
        for start, stop, shared in zip(
            plan.starts.tolist(), plan.starts.tolist()[1:], plan.shared.tolist(), strict=False
        )
        for length in range(shared, stop - start)
    ]


@pytest.mark.parametrize("choose", RULES)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("a cat cats dog the".split()), min_size=1, max_size=6), min_size=1), st.data())
def test_each_prefix_needed_is_run_once_and_no_other(choose: str, texts: list[list[str]], data: st.DataObject) -> None:
    sentences = corpus(*(" ".join(words) for words in texts))
    try:
        plan = make_plan(TOKENIZER, sentences, Selection(data.draw(st.integers(1, 4)), choose))
    except CorpusError:
        return
    for some in (plan, plan.only(keep(len(plan), data))):
        found = prefixes(some)
        assert found == sorted(set(found)), "rows stand in the order of their prefixes"
        needed = {prefix[: end + 1] for prefix in found for end in range(len(prefix))}
        assert sorted(run_once(some)) == sorted(needed)
        assert some.counts["prefixes_run"] == len(needed)
        texts_kept = some.sentences["text"].to_pylist()
        for prefix, row in zip(found, some.contexts.to_pylist(), strict=True):
            ids = TOKENIZER(texts_kept[row["sentence"]])["input_ids"]
            assert tuple(ids[: row["position"] + 1]) == prefix
        owner = [plan.run_of_row[row] for row in range(len(plan))]
        assert owner == sorted(owner)


def keep(rows: int, data: st.DataObject) -> np.ndarray:
    chosen = data.draw(st.sets(st.integers(0, rows - 1), min_size=1))
    return np.isin(np.arange(rows), sorted(chosen))


def test_only_what_is_left_stays() -> None:
    plan = make_plan(TOKENIZER, corpus(*SENTENCES), ALL)
    keep = np.arange(len(plan)) % 7 == 3
    some = plan.only(keep)
    assert kept(some) == [row for row, stays in zip(kept(plan), keep, strict=True) if stays]
    assert some.sentences["id"].to_pylist() == list(range(len(some.sentences)))
    assert plan.only(np.ones(len(plan), dtype=bool)).contexts.equals(plan.contexts)
    with pytest.raises(CorpusError, match="none is left"):
        plan.only(np.zeros(len(plan), dtype=bool))


def test_shards_hold_all_runs_within_their_rows() -> None:
    plan = make_plan(TOKENIZER, corpus(*SENTENCES), ALL)
    for most in (1, 5, 30, 10_000):
        shards = plan.shards(most)
        assert [run for shard in shards for run in shard] == list(range(len(plan.starts) - 1))
        rows = [plan.rows_of(shard) for shard in shards]
        assert [row for part in rows for row in part] == list(range(len(plan)))
        assert all(len(part) <= most or len(shard) == 1 for shard, part in zip(shards, rows, strict=True))
    assert len(plan.shards(10_000)) == 1


def test_a_plan_comes_back_from_disk(tmp_path: Path) -> None:
    plan = make_plan(TOKENIZER, corpus(*SENTENCES), Selection(3))
    plan.save(tmp_path)
    opened = load_plan(tmp_path)
    assert opened.contexts.equals(plan.contexts)
    assert opened.sentences.equals(plan.sentences)
    assert (opened.counts, opened.corpus) == (plan.counts, plan.corpus)
    for name in ("token_ids", "starts", "shared", "run_of_row"):
        assert np.array_equal(getattr(opened, name), getattr(plan, name))
        assert getattr(opened, name).dtype == getattr(plan, name).dtype


def test_runs_are_cut_and_shared() -> None:
    plan = make_plan(TOKENIZER, corpus("The cat sat", "The cat", "The cat sat on a dog"), ALL)
    assert len(plan.starts) == 2, "one run serves all three"
    plan = make_plan(TOKENIZER, corpus(*SENTENCES), Selection(per_token=1, choose="first"))
    longest = Counter[int]()
    for run, position in zip(plan.run_of_row.tolist(), plan.contexts["position"].to_pylist(), strict=True):
        longest[run] = max(longest[run], position + 1)
    assert [longest[run] for run in range(len(plan.starts) - 1)] == np.diff(plan.starts).tolist()
    assert plan.counts["prefixes_run"] < plan.counts["prefixes"] < plan.counts["tokens"]


def test_special_tokens_and_the_first_position_are_never_kept() -> None:
    text = "The cat <s> sat </s> on <image> it"
    for tokenizer in (TOKENIZER, make_tokenizer(bos=False)):
        rows = make_plan(tokenizer, corpus(text), ALL).contexts.to_pylist()
        assert rows
        assert all(row["position"] > 0 for row in rows)
        assert not {row["token_id"] for row in rows} & set(tokenizer.all_special_ids)
        assert {"Ġon", "Ġit"} & {row["token"] for row in rows}


def test_padding_side_is_irrelevant() -> None:
    left, right = (make_tokenizer(padding_side=side) for side in ("left", "right"))
    for tokenizer in (left, right):  # a call that pads and truncates leaves its settings in the backend
        tokenizer(["a", "a cat"], padding=True, truncation=True, max_length=2)
    one, other = (make_plan(tokenizer, corpus(*SENTENCES), Selection(2)) for tokenizer in (left, right))
    assert one.contexts.equals(other.contexts)
    assert np.array_equal(one.token_ids, other.token_ids)


def test_without_bos_only_the_first_token_is_missing() -> None:
    """The first position is the sink: <s> where there is one, else the sentence's own first token."""
    with_bos = make_plan(TOKENIZER, corpus(*SENTENCES), ALL)
    without = make_plan(make_tokenizer(bos=False), corpus(*SENTENCES), ALL)
    shifted = [(text, position - 1, token, word) for text, position, token, word in kept(with_bos) if position > 1]
    assert sorted(kept(without)) == sorted(shifted)
    spans = ["word_start", "word_end", "token_start", "token_end"]
    later = [row for row in with_bos.contexts.to_pylist() if row["position"] > 1]
    assert [[row[name] for name in spans] for row in without.contexts.to_pylist()] == [
        [row[name] for name in spans] for row in later
    ]


def test_the_cap_is_per_token_id() -> None:
    texts = [f"{first} {second} cat" for first in ("The", "A", "In") for second in ("old", "red", "blue", "tall")]
    everything = make_plan(TOKENIZER, corpus(*texts), ALL)
    for choose in RULES:
        capped = make_plan(TOKENIZER, corpus(*texts), Selection(per_token=3, choose=choose))
        available = Counter(everything.contexts["token_id"].to_pylist())
        assert Counter(capped.contexts["token_id"].to_pylist()) == {
            token: min(3, count) for token, count in available.items()
        }
        assert set(kept(capped)) <= set(kept(everything))


def test_first_keeps_what_comes_first() -> None:
    plan = make_plan(TOKENIZER, corpus("In the cat", "A cat", "All the cat"), Selection(2, "first"))
    assert [text for text, _, token, _ in kept(plan) if token == "Ġcat"] == ["A cat", "In the cat"]


def test_the_reservoir_is_seeded_and_blind_to_the_order_of_the_corpus() -> None:
    rng = random.Random(0)
    texts = sorted({words_in(rng) for _ in range(200)})
    plan = make_plan(TOKENIZER, corpus(*texts), Selection(3, "reservoir"))
    assert kept(make_plan(TOKENIZER, corpus(*texts), Selection(3, "reservoir"))) == kept(plan)
    assert kept(make_plan(TOKENIZER, corpus(*texts), Selection(3, "reservoir", seed=1))) != kept(plan)
    shuffled = rng.sample(texts, len(texts))
    assert sorted(prefixes(make_plan(TOKENIZER, corpus(*shuffled), Selection(3, "reservoir")))) == sorted(
        prefixes(plan)
    )


def test_the_reservoir_is_uniform() -> None:
    texts = [f"The {letter} cat" for letter in "abcdefghij"]
    chosen = Counter(
        text
        for seed in range(400)
        for text, _, token, _ in kept(make_plan(TOKENIZER, corpus(*texts), Selection(3, "reservoir", seed=seed)))
        if token == "Ġcat"
    )
    # 400 draws of 3 out of 10: 120 each, standard deviation 9.2; five of those.
    assert set(chosen) == set(texts)
    assert all(abs(count - 120) < 46 for count in chosen.values()), chosen


def test_words_carry_their_own_occurrence() -> None:
    plan = make_plan(TOKENIZER, corpus("A cat and the cats don't."), ALL)
    rows = plan.contexts.to_pylist()
    cats = [(row["word"], row["word_start"], row["word_end"]) for row in rows if row["token"] == "Ġcat"]
    assert cats == [("cat", 2, 5), ("cats", 14, 18)]
    assert {row["word"] for row in rows if row["token_start"] >= 19} == {"don't", "."}


def test_final_keeps_only_what_ends_a_word() -> None:
    text = "The strawberries, and café cats don't! 🙂"
    rows = make_plan(TOKENIZER, corpus(text), Selection(10_000, words="final")).contexts.to_pylist()
    assert [row["word"] for row in rows] == ["The", "strawberries", "and", "café", "cats", "don't"]
    assert all(row["token_end"] == row["word_end"] for row in rows)


def test_final_looks_for_a_sentence_where_the_word_ends() -> None:
    plan = make_plan(TOKENIZER, corpus("the cats", "the cat"), Selection(10_000, words="final"))
    assert ("the cat", "Ġcat") in {(text, token) for text, _, token, _ in kept(plan)}


def test_skip_positions_as_the_reference_package_does() -> None:
    everything = make_plan(TOKENIZER, corpus(*SENTENCES), ALL)
    skipped = make_plan(TOKENIZER, corpus(*SENTENCES), Selection(10_000, skip_positions=2))
    assert kept(skipped) == [row for row in kept(everything) if row[1] >= 2]
    none = make_plan(TOKENIZER, corpus(*SENTENCES), Selection(10_000, skip_positions=0))
    assert kept(none) == kept(everything), "the sink is never kept"


def test_a_long_sentence_is_cut() -> None:
    text = "the cat sat on a mat and " * 400
    plan = make_plan(TOKENIZER, corpus(text), Selection(10_000, max_positions=50))
    assert max(plan.contexts["position"].to_pylist()) == 49
    assert plan.counts["tokens"] == 50


def test_counts_and_fingerprint() -> None:
    plan = make_plan(TOKENIZER, corpus(*SENTENCES, SENTENCES[0]), Selection(1))
    assert plan.counts["sentences"] == 9
    assert plan.counts["prefixes"] == len(contexts(TOKENIZER, list(SENTENCES))) + 1  # and <s> alone
    assert plan.corpus != make_plan(TOKENIZER, corpus(*SENTENCES), Selection(1)).corpus
    assert len(plan.sentences) <= 8, "a sentence without contexts is not stored"
    assert plan.sentences["id"].to_pylist() == list(range(len(plan.sentences)))


def test_progress_keeps_one_total() -> None:
    seen: list[tuple[str, int, int]] = []
    make_plan(TOKENIZER, corpus(*["A cat"] * 3000), Selection(), lambda *report: seen.append(report))
    assert seen == [("plan", 0, 3000), ("plan", 1024, 3000), ("plan", 2048, 3000), ("plan", 3000, 3000)]


def test_nothing_to_keep() -> None:
    with pytest.raises(CorpusError, match="none of the 2 tokens"):
        make_plan(TOKENIZER, corpus("a"), Selection(skip_positions=2))
    with pytest.raises(CorpusError, match="none of the 1 tokens"):
        make_plan(make_tokenizer(bos=False), corpus("a"), Selection())


def test_a_tokenizer_that_knows_no_offsets() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is not a fast tokenizer"):
        make_plan(Slow(), corpus("A cat"), Selection())


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"per_token": 0}, "per_token is 0"),
        ({"skip_positions": -1}, "skip_positions is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"choose": "best"}, "choose is 'best'.*spread, first, reservoir"),
        ({"words": "some"}, "words is 'some'.*all, final"),
    ],
)
def test_options_out_of_range(option: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        Selection(**option)
