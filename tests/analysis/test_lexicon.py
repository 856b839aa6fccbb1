import os
from pathlib import Path

import pytest

from patchlens.analysis.lexicon import COLOR_WORDS, FUNCTION_WORDS, NUMBER_WORDS, WORD_CLASSES, Lexicon
from patchlens.errors import OptionError

LICENSE = "  1 This software and database is being provided to you, the LICENSEE\n  2 WordNet 3.0 Copyright 2006  \n"

FILES = {
    "index.noun": f"""{LICENSE}building n 4 2 @ ~ 4 3 00000001 00000002 00000003 00000004
child n 2 1 @ 2 1 00000001 00000002
church n 1 0 1 1 00000001
dog n 7 1 @ 7 1 00000001 00000002 00000003 00000004 00000005 00000006 00000007
duck n 4 1 @ 4 1 00000001 00000002 00000003 00000004
fire_truck n 1 0 1 0 00000001
glass n 7 0 7 1 00000001 00000002 00000003 00000004 00000005 00000006 00000007
light n 9 0 9 1 00000001 00000002 00000003 00000004 00000005 00000006 00000007 00000008 00000009
mailbox n 1 0 1 0 00000001
paris n 1 0 1 1 00000001
party n 1 0 1 0 00000001
po n 1 0 1 0 00000001
quick n 1 0 1 0 00000001
quiz n 1 0 1 0 00000001
saw n 3 0 3 0 00000001 00000002 00000003
window n 2 0 2 1 00000001 00000002
windows n 1 0 1 0 00000001
""",
    "index.verb": f"""{LICENSE}build v 3 1 @ 3 1 00000001 00000002 00000003
dog v 1 0 1 1 00000001
duck v 4 0 4 1 00000001 00000002 00000003 00000004
run v 5 0 5 1 00000001 00000002 00000003 00000004 00000005
saw v 1 0 1 1 00000001
see v 9 0 9 1 00000001 00000002 00000003 00000004 00000005 00000006 00000007 00000008 00000009
bake v 2 0 2 1 00000001 00000002
""",
    "index.adj": f"""{LICENSE}light a 5 0 5 1 00000001 00000002 00000003 00000004 00000005
quick a 6 1 & 6 1 00000001 00000002 00000003 00000004 00000005 00000006
red a 3 1 & 3 1 00000001 00000002 00000003
""",
    "index.adv": f"""{LICENSE}quickly r 3 1 ! 3 1 00000001 00000002 00000003
""",
    "cntlist.rev": """building%1:06:00:: 1 40
build%2:36:00:: 1 99
dog%1:05:00:: 1 42
dog%2:38:00:: 1 2
duck%1:05:00:: 1 4
duck%2:38:00:: 1 5
light%1:04:00:: 1 30
light%1:04:01:: 2 15
light%3:00:00:: 1 20
light%5:00:00:bright:00 2 4
quick%5:00:00:fast:01 1 9
see%2:31:00:: 1 500
""",
    "noun.exc": "children child\n",
    "verb.exc": "ran run\nrunning run\nsaw see\nsawn saw\n",
    "data.noun": f"""{LICENSE}00000001 15 n 02 Paris 0 City_of_Light 0 001 @i 00000002 n 0000 | the capital of France
00000002 27 n 02 polonium 0 Po 0 000 | a metal
00000003 27 n 01 Windows 0 000 | a program
00000004 06 n 03 dog 0 Window 0 window 1 000 | both ways
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


class TestWordNet:
    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("dog", "noun"),
            ("DOG", "noun"),
            ("quickly", "adverb"),
            ("red", "adjective"),
            ("light", "adjective"),  # 24 uses in one form, against 45 in two
            ("duck", "noun"),  # 4 uses in two forms, against 5 in four
            ("building", "verb"),  # 99 uses in four forms, against 40 in two
            ("quick", "adjective"),
            ("xyzzy", "other"),
            ("", "other"),
            ("中", "other"),
            ("g", "other"),
        ],
    )
    def test_a_word_has_the_class_that_it_is_most_used_in(self, folder: Path, word: str, expected: str) -> None:
        assert Lexicon.from_wordnet(folder).word_class(word) == expected

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            *(("dogs", "noun"), ("churches", "noun"), ("mailboxes", "noun"), ("parties", "noun"), ("quizes", "noun")),
            *(("children", "noun"), ("childs", "noun"), ("glasses", "noun"), ("windows", "noun")),
            *(("runs", "verb"), ("ran", "verb"), ("running", "verb"), ("baking", "verb"), ("baked", "verb")),
            *(("sees", "verb"), ("saw", "verb"), ("seeing", "verb")),
            *(("quicker", "adjective"), ("quickest", "adjective")),
            *(("dog's", "noun"), ("dogs\u2019", "noun"), ("fire-truck", "noun"), ("mail-box", "noun")),
            *(("dark-red", "adjective"), ("gla", "other"), ("s", "other")),
        ],
    )
    def test_inflections_are_led_back_to_their_base(self, folder: Path, word: str, expected: str) -> None:
        assert Lexicon.from_wordnet(folder).word_class(word) == expected

    def test_what_ends_in_two_s_is_no_plural(self, folder: Path) -> None:
        (folder / "index.noun").write_text("glas n 1 0 1 0 00000001\n")
        assert Lexicon.from_wordnet(folder).word_class("glass") == "other"

    def test_an_irregular_form_follows_no_rule(self, folder: Path) -> None:
        # "children" by rule would be nothing, but "sees" is a rule's: an exception takes its place.
        (folder / "verb.exc").write_text("sees run\n")
        (folder / "index.verb").write_text("see v 9 0 9 1 00000001\n")
        assert Lexicon.from_wordnet(folder).word_class("sees") == "other"

    def test_nouns_that_always_have_a_capital_are_names_with_it_and_nothing_without(self, folder: Path) -> None:
        lexicon = Lexicon.from_wordnet(folder)
        assert [lexicon.word_class(word) for word in ("Paris", "paris", "po", "Po")] == [
            *("proper noun", "other", "other", "proper noun")
        ]
        assert [lexicon.word_class(word) for word in ("Windows", "windows", "Window")] == ["noun"] * 3

    def test_the_sense_index_does_as_well_as_the_list_of_counts(self, folder: Path) -> None:
        counts = (folder / "cntlist.rev").read_text().splitlines()
        (folder / "cntlist.rev").unlink()
        fields = [line.split() for line in counts]
        (folder / "index.sense").write_text("".join(f"{key} 00000001 {n} {count}\n" for key, n, count in fields))
        lexicon = Lexicon.from_wordnet(folder)
        assert [lexicon.word_class(word) for word in ("duck", "building", "light")] == ["noun", "verb", "adjective"]

    def test_it_is_named_after_its_license(self, folder: Path) -> None:
        assert Lexicon.from_wordnet(folder).name == "WordNet 3.0"
        (folder / "index.noun").write_text("dog n 1 0 1 0 00000001\n")
        assert Lexicon.from_wordnet(str(folder)).name == "WordNet"

    @pytest.mark.parametrize("name", [name for name in FILES if name.startswith("index")])
    def test_a_missing_file_is_named(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(OptionError, match=rf"there is no {name}.*wordnet-base"):
            Lexicon.from_wordnet(folder)

    def test_missing_counts_are_named(self, folder: Path) -> None:
        (folder / "cntlist.rev").unlink()
        with pytest.raises(OptionError, match=r"there is no index\.sense and no cntlist\.rev"):
            Lexicon.from_wordnet(folder)

    def test_a_folder_that_is_none_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="nowhere"):
            Lexicon.from_wordnet(tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("index.verb", "dog"),
            ("index.noun", "dog n many 1"),
            ("cntlist.rev", "dog 1 42"),
            ("cntlist.rev", "dog%1:05:00:: 1 many"),
            ("data.noun", "00000001 15 v 01 dog 0"),
            ("data.noun", "dog"),
        ],
    )
    def test_a_file_of_another_format_is_named_with_its_line(self, folder: Path, name: str, line: str) -> None:
        (folder / name).write_text(f"{line}\n")
        with pytest.raises(OptionError, match=rf"{name}: it has the line '{line}'"):
            Lexicon.from_wordnet(folder)

    def test_exceptions_and_names_may_be_absent(self, folder: Path) -> None:
        for name in ("noun.exc", "verb.exc", "data.noun"):
            (folder / name).unlink()
        lexicon = Lexicon.from_wordnet(folder)
        assert [lexicon.word_class(word) for word in ("dogs", "children", "paris")] == ["noun", "other", "noun"]


class TestNames:
    @pytest.mark.parametrize(
        ("sentence", "word", "expected"),
        [
            ("We met Dog there.", "Dog", "proper noun"),
            ("Dog runs.", "Dog", "noun"),
            ("It ran. Dog saw it.", "Dog", "noun"),
            ('He said: "Dog!"', "Dog", "noun"),
            ("It says DOG here.", "DOG", "noun"),
            ("A dog runs.", "dog", "noun"),
            ("We met Zork there.", "Zork", "proper noun"),
            ("Zork met us.", "Zork", "other"),
            ("It was The end.", "The", "function word"),
            ("It was Two o'clock.", "Two", "number"),
        ],
    )
    def test_a_capital_within_a_sentence_makes_a_name(
        self, folder: Path, sentence: str, word: str, expected: str
    ) -> None:
        lexicon = Lexicon.from_wordnet(folder)
        assert lexicon.word_class(word, sentence, sentence.index(word)) == expected


class TestWords:
    def test_given_classes_come_before_every_rule(self) -> None:
        words = {"Like": "verb", "light": "noun", "seven": "noun", "a1": "adjective", "x": "noun"}
        lexicon = Lexicon.from_words(words, name="ours")
        found = {word: lexicon.word_class(word) for word in ("like", "LIGHT", "lights", "seven", "a1", "x", "dog")}
        assert found == {
            **{"like": "verb", "LIGHT": "noun", "lights": "noun", "seven": "noun", "a1": "adjective", "x": "noun"},
            "dog": "other",
        }
        assert lexicon.name == "ours"

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("the", "function word"),
            ("Don\u2019t", "function word"),
            ("1980s", "number"),
            ("3", "number"),
            ("ten", "number"),
        ],
    )
    def test_closed_classes_need_no_dictionary(self, word: str, expected: str) -> None:
        assert Lexicon.from_words({}).word_class(word) == expected

    def test_an_unknown_class_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"'dog' was given the class 'nuon'\. Expected one of noun, proper noun"):
            Lexicon.from_words({"dog": "nuon"})


def test_lists_are_of_lower_case_words_that_do_not_meet() -> None:
    for words in (FUNCTION_WORDS, NUMBER_WORDS, COLOR_WORDS):
        assert all(word == word.lower() for word in words)
    assert not FUNCTION_WORDS & NUMBER_WORDS
    assert not FUNCTION_WORDS & COLOR_WORDS
    assert len(WORD_CLASSES) == 8


if "WNSEARCHDIR" in os.environ:

    def test_the_real_dictionary_knows_everyday_words() -> None:
        lexicon = Lexicon.from_wordnet(os.environ["WNSEARCHDIR"])
        assert lexicon.name.startswith("WordNet 3")
        classes = {
            "noun": "tower clocks children foliage trees sign train flower glass men strawberries",
            "verb": "ran standing painted eats",
            "adjective": "red wooden blurry better large",
            "adverb": "quickly often",
            "function word": "the of is",
            "number": "two 1980s",
            "proper noun": "Paris",
            "other": "xyzzy po ing",
        }
        assert {word: lexicon.word_class(word) for words in classes.values() for word in words.split()} == {
            word: of_class for of_class, words in classes.items() for word in words.split()
        }
