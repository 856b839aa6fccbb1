import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlens.errors import OptionError
from patchlens.study.toml import Found, Limit, nearest, one_of, read_table, write_table


@dataclass(frozen=True, kw_only=True)
class Tea:
    name: str
    cups: Annotated[int, Limit("a whole number from 1", lambda cups: cups >= 1)] = 1
    kind: Annotated[str, one_of(("black", "green"))] = "black"
    grams: float = 2.5
    sweet: bool = False
    steps: tuple[int, ...] = ()
    water: str | int | None = None
    pot: Path | None = None
    more: dict[str, Any] | None = None


def found(text: str, base: str = "/kitchen") -> Found:
    return Found("the recipe", "[tea]", tomllib.loads(text), Path(base))


def read(text: str, base: str = "/kitchen") -> Tea:
    return Tea(**read_table(Tea, found(text, base)))


class TestReading:
    def test_what_is_left_out_has_its_default(self) -> None:
        assert read('name = "sencha"') == Tea(name="sencha")

    def test_values_become_their_fields_types(self) -> None:
        tea = read(
            'name = "a"\nsteps = [1, 2]\ngrams = 3\nwater = 80\npot = "clay/old"\nmore = { milk = [1, { a = true }] }'
        )
        assert tea == Tea(
            name="a",
            steps=(1, 2),
            grams=3.0,
            water=80,
            pot=Path("/kitchen/clay/old"),
            more={"milk": [1, {"a": True}]},
        )
        assert type(tea.grams) is float

    def test_absolute_paths_stay(self) -> None:
        assert read('name = "a"\npot = "/cupboard/pot"').pot == Path("/cupboard/pot")

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("cups = true", r"\[tea\] has cups = true\. Expected a whole number from 1\."),
            ("cups = 2.0", r"cups = 2\.0\. Expected a whole number from 1\."),
            ("cups = 0", r"cups = 0\. Expected a whole number from 1\."),
            ('cups = "2"', r'cups = "2"\. Expected a whole number'),
            ('kind = "gren"', r"kind = \"gren\"\. Expected one of 'black', 'green'\."),
            ("kind = 1", r"kind = 1\. Expected one of"),
            ("name = 1", r"name = 1\. Expected a text\."),
            ('grams = "many"', r"Expected a number\."),
            ("grams = nan", r"grams = nan\. Expected a number\."),
            ("grams = inf", r"Expected a number\."),
            (f"grams = 1{'0' * 400}", r"grams = 10{99}…\. Expected a number\."),
            ("sweet = 1", r"Expected true or false\."),
            ("steps = 1", r"Expected a list, each of it a whole number\."),
            ("steps = [1, 2.5]", r"steps = \[1, 2\.5\]\. Expected a list"),
            ("water = 1.5", r"Expected a text or a whole number\."),
            ("water = 2020-01-01", r"water = 2020-01-01\. Expected"),
            ("pot = 3", r"Expected a path\."),
            ('pot = ""', r"Expected a path\."),
            ("more = 3", r"Expected a table of"),
            ("more = { since = 2020-01-01 }", r"Expected a table of"),
            ("more = { x = [inf] }", r"Expected a table of"),
        ],
    )
    def test_wrong_values_are_named_with_what_was_expected(self, line: str, said: str) -> None:
        text = line if line.startswith("name") else f'name = "a"\n{line}'
        with pytest.raises(OptionError, match=f"^Reading the recipe: .*{said}"):
            read(text)

    def test_an_unknown_key_offers_the_nearest(self) -> None:
        with pytest.raises(
            OptionError, match=r"\[tea\] has the unknown key 'gram'\. Did you mean 'grams'\? It takes name, "
        ):
            read('name = "a"\ngram = 2')

    def test_an_unknown_key_like_none_offers_nothing(self) -> None:
        with pytest.raises(OptionError, match=r"the unknown key 'zzz'\. It takes name, cups"):
            read('name = "a"\nzzz = 2')

    def test_a_missing_key_says_what_it_takes(self) -> None:
        with pytest.raises(OptionError, match=r"\[tea\] lacks the key 'name'\. Add it: a text\."):
            read("cups = 2")

    def test_fields_of_other_tables_are_no_keys_of_this_one(self) -> None:
        assert read_table(Tea, found("cups = 2"), without=["name"]) == {"cups": 2}
        with pytest.raises(OptionError, match="unknown key 'name'"):
            read_table(Tea, found('name = "a"'), without=["name"])


class TestWriting:
    def test_by_hand(self) -> None:
        tea = Tea(name='say "oolong"', steps=(1, 2), pot=Path("/a b"), more={"x y": {"z": [1.5, True]}})
        assert write_table("[tea]", tea, without=["cups"]) == (
            '[tea]\nname = "say \\"oolong\\""\nkind = "black"\ngrams = 2.5\nsweet = false\nsteps = [1, 2]\n'
            'pot = "/a b"\nmore = {"x y" = {z = [1.5, true]}}\n'
        )

    def test_long_lists_get_a_line_for_each_value(self) -> None:
        written = write_table("[tea]", Tea(name="a", steps=tuple(range(1000, 1040))))
        assert "steps = [\n    1000,\n    1001,\n" in written
        assert tomllib.loads(written)["tea"]["steps"] == list(range(1000, 1040))

    @given(
        st.builds(
            Tea,
            name=st.text(),
            cups=st.integers(1, 2**63 - 1),
            grams=st.floats(-1e299, 1e299),
            sweet=st.booleans(),
            steps=st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple),
            water=st.none() | st.text() | st.integers(-9, 9),
            more=st.none()
            | st.dictionaries(
                st.text(),
                st.recursive(
                    st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                    max_leaves=5,
                ),
                max_size=3,
            ),
        )
    )
    def test_what_is_written_reads_the_same(self, tea: Tea) -> None:
        values = tomllib.loads(write_table("[tea]", tea))["tea"]
        assert Tea(**read_table(Tea, Found("", "", values, Path("/elsewhere")))) == tea


def test_nearest() -> None:
    assert nearest("lensses", ["models", "lenses"]) == "Did you mean 'lenses'? "
    assert nearest("xyz", ["models", "lenses"]) == ""
