import numpy as np
import pyarrow as pa
import pytest
from tests.analysis.tables import candidates, drawn, made_up, records

from patchlens.analysis.lexicon import WORD_CLASSES, Lexicon
from patchlens.analysis.word_classes import COLOR, word_classes
from patchlens.errors import StudyError
from patchlens.evaluation.intervals import clustered

LEXICON = Lexicon.from_words(
    {"dog": "noun", "red": "adjective", "runs": "verb", "quickly": "adverb"}, name="four words"
)
WORDS = ("dog", "Dog", "red", "runs", "quickly", "the", "7", "zork", " Red")


def test_every_share_is_what_a_loop_counts() -> None:
    table = made_up(models=("tiny", "other"), words=WORDS, images=5)
    rows = table.to_pylist()
    found = records(word_classes(table, LEXICON, k=3))
    assert len(found) == 2 * 2 * 3 * (len(WORD_CLASSES) + 1)
    for cell in found:
        hits, trials = np.zeros(5), np.zeros(5)
        for row in rows:
            if row["rank"] <= 3 and all(row[key] == cell[key] for key in ("model", "lens", "layer")):
                image = int(row["image"].removesuffix(".png"))
                trials[image] += 1
                of_class = LEXICON.word_class(row["word"], row["sentence"], row["word_start"])
                hit = row["word"].strip().lower() == "red" if cell["class"] == COLOR else of_class == cell["class"]
                hits[image] += hit
        assert (cell["count"], cell["candidates"], cell["images"]) == (hits.sum(), trials.sum(), 5)
        expected = (hits.sum() / trials.sum(), *clustered(hits, trials))
        assert [cell[name] for name in ("share", "low", "high")] == pytest.approx(expected)


def test_classes_add_up_and_colors_come_on_top() -> None:
    found = records(word_classes(made_up(words=WORDS), LEXICON))
    for layer in (0, 2, 5):
        here = [row for row in found if (row["lens"], row["layer"]) == ("latent", layer)]
        assert sum(row["share"] for row in here if row["class"] != COLOR) == pytest.approx(1)
    by_lens = {row["lens"] for row in found if row["class"] == "proper noun" and row["count"]}
    assert by_lens == {"latent"}  # "Dog" within a sentence


def test_the_same_word_is_a_name_in_one_sentence_and_none_in_another() -> None:
    uses = [("See Dog.", 4), ("Dog sees.", 0), (None, None)]
    rows = [
        {"rank": rank, "word": "Dog", "sentence": sentence, "word_start": start}
        for rank, (sentence, start) in enumerate(uses, 1)
    ]
    found = {row["class"]: row["count"] for row in records(word_classes(candidates(rows), LEXICON))}
    assert (found["proper noun"], found["noun"]) == (1, 2)


def test_random_rows_are_beside_the_lenses_and_other_images_are_not() -> None:
    rows = [
        {"word": "dog"},
        {"word": "red", "lens": "random", "baseline": "random rows"},
        {"word": "runs", "baseline": "another image"},
    ]
    found = word_classes(candidates(rows), LEXICON)
    counted = {(row["lens"], row["baseline"], row["class"]) for row in records(found) if row["count"]}
    assert counted == {
        ("latent", None, "noun"),
        ("random", "random rows", "adjective"),
        ("random", "random rows", COLOR),
    }
    assert [axes.get_title(loc="left") for axes in found.draw().axes] == ["tiny: LatentLens", "tiny: random rows"]


def test_the_lexicon_is_named_and_the_figure_drawn() -> None:
    found = word_classes(made_up(images=1, words=WORDS), LEXICON)
    assert "four words" in found.note
    assert drawn(found)


def test_parts_with_dictionaries_of_their_own_are_counted_as_one() -> None:
    table = pa.concat_tables([candidates([{"word": "dog"}]), candidates([{"word": "red", "image": "b.png"}])])
    found = {row["class"]: row["count"] for row in records(word_classes(table, LEXICON)) if row["count"]}
    assert found == {"noun": 1, "adjective": 1, COLOR: 1}


def test_without_candidates_there_is_nothing_to_count() -> None:
    with pytest.raises(StudyError, match="no candidates"):
        word_classes(candidates([{"baseline": "another image"}]), LEXICON)
