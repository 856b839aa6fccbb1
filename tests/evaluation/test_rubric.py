import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchlens.errors import OptionError
from patchlens.evaluation.question import Question, Shown
from patchlens.evaluation.rubric import RUBRICS, Rubric, Unreadable, find_rubric
from patchlens.evaluation.verdict import VERDICTS

TEXTS = {"description": "A dog.", "evidence": "There is a dog."}


def asked(name: str, number: int = 3) -> Question:
    candidates = tuple(Shown(f"word {each}") for each in range(number))
    return Question(find_rubric(name), candidates=candidates, texts=TEXTS)


def read(name: str, reply: str, number: int = 3) -> Any:
    question = asked(name, number)
    return question.rubric.read(question, reply)


def verdicts_json(verdicts: list[str], **more: object) -> str:
    return json.dumps({**more, "verdicts": {str(number): each for number, each in enumerate(verdicts, start=1)}})


verdict_lists = st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=6)
prose = st.text(st.characters(exclude_characters="{}"), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


# Reading


@given(verdict_lists, prose, prose, st.text(max_size=20), st.integers(0, 4))
def test_words_around_the_json_do_not_matter(
    verdicts: list[str], before: str, behind: str, reasoning: str, indent: int
) -> None:
    found = json.loads(verdicts_json(verdicts, reasoning=reasoning))
    reply = f"{before}{json.dumps(found, indent=indent or None)}{behind}"
    assert read("patch", reply, len(verdicts)) == verdicts


@given(verdict_lists, st.sampled_from(["```json\n{}\n```", "```\n{}```", "Here:\n```JSON\n{}\n```\nDone."]))
def test_fences_do_not_matter(verdicts: list[str], fence: str) -> None:
    assert read("patch", fence.replace("{}", verdicts_json(verdicts)), len(verdicts)) == verdicts


@given(verdict_lists, st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=3), max_size=3))
def test_other_objects_before_are_passed_over(verdicts: list[str], others: list[dict[str, Any]]) -> None:
    assume(all("verdicts" not in other for other in others))
    reply = "\n".join([*map(json.dumps, others), verdicts_json(verdicts)])
    assert read("patch", reply, len(verdicts)) == verdicts


@given(verdict_lists)
def test_broken_braces_before_are_passed_over(verdicts: list[str]) -> None:
    assert read("patch", f"{{I think}} {{ {{'so' {verdicts_json(verdicts)} }}", len(verdicts)) == verdicts


@given(verdict_lists, st.data())
def test_a_missing_candidate_is_unreadable(verdicts: list[str], data: st.DataObject) -> None:
    found = json.loads(verdicts_json(verdicts))
    del found["verdicts"][str(data.draw(st.integers(1, len(verdicts))))]
    with pytest.raises(Unreadable, match="of another form"):
        read("patch", json.dumps(found), len(verdicts))


@given(verdict_lists, json_values, st.data())
def test_a_wrong_verdict_is_unreadable(verdicts: list[str], wrong: Any, data: st.DataObject) -> None:
    assume(not (isinstance(wrong, str) and wrong.strip().lower() in VERDICTS))
    found = json.loads(verdicts_json(verdicts))
    found["verdicts"][str(data.draw(st.integers(1, len(verdicts))))] = wrong
    with pytest.raises(Unreadable, match="of another form"):
        read("patch", json.dumps(found), len(verdicts))


@given(json_values, st.sampled_from(list(RUBRICS)), st.sampled_from(["verdicts", "claims", "supported", "mark", "x"]))
def test_whatever_stands_there_is_read_or_unreadable(value: Any, name: str, key: str) -> None:
    """Nothing else is raised, and what is read is of the asked form."""
    try:
        content = read(name, json.dumps({key: value}), 1)
    except Unreadable:
        return
    match name:
        case "patch" | "sentence":
            assert len(content) == 1
            assert content[0] in VERDICTS
        case "claims":
            assert all(isinstance(claim, str) and claim == claim.strip() != "" for claim in content)
        case "support":
            assert content in ([True], [False])
        case _:
            assert type(content) is int
            assert 1 <= content <= 10


@settings(max_examples=200)
@given(st.text(max_size=60) | st.text(st.sampled_from('{}[]":,1e\\ verdictsconcrete'), max_size=60))
def test_any_text_is_unreadable_at_worst(reply: str) -> None:
    for name in RUBRICS:
        with suppress(Unreadable):
            read(name, reply)


@pytest.mark.parametrize("reply", ['{"mark": 1e999}', '{"mark": NaN}', f'{{"mark": {"9" * 5000}}}', '{"mark": 7.5}'])
def test_numbers_that_are_none(reply: str) -> None:
    with pytest.raises(Unreadable):
        read("mark", reply)


def test_what_is_nested_too_deeply_is_passed_over() -> None:
    assert read("mark", '{"a":' * 5000 + ' and {"mark": 4}') == 4


@pytest.mark.parametrize(
    ("name", "reply", "content"),
    [
        (
            "patch",
            '{"verdicts": {"1": " Concrete ", "2": "GLOBAL", "3": "abstract"}}',
            ["concrete", "global", "abstract"],
        ),
        ("claims", '{"claims": [" A dog is there. ", "", "It is brown."]}', ["A dog is there.", "It is brown."]),
        ("claims", '{"claims": []}', []),
        ("support", '{"supported": {"1": true, "2": false, "3": true}}', [True, False, True]),
        ("mark", '{"reasoning": "good", "mark": 8}', 8),
        ("mark", '{"mark": 8.0}', 8),
    ],
)
def test_each_kind(name: str, reply: str, content: Any) -> None:
    assert read(name, reply) == content


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("claims", '{"claims": "A dog."}'),
        ("claims", '{"claims": {"a": "b"}}'),
        ("claims", '{"claims": [1]}'),
        ("support", '{"supported": {"1": "true", "2": true, "3": true}}'),
        ("support", '{"supported": {"1": 1, "2": 0, "3": 1}}'),
        ("support", '{"supported": [true, true, true]}'),
        ("mark", '{"mark": 0}'),
        ("mark", '{"mark": 11}'),
        ("mark", '{"mark": true}'),
        ("mark", '{"mark": "8"}'),
        ("mark", '{"mark": null}'),
        ("patch", '{"verdicts": ["concrete", "concrete", "concrete"]}'),
    ],
)
def test_what_is_of_another_form(name: str, reply: str) -> None:
    with pytest.raises(Unreadable, match="a JSON object of another form"):
        read(name, reply)


# Asking


@pytest.mark.parametrize("name", RUBRICS)
def test_schemas_are_as_strict_endpoints_want_them(name: str) -> None:
    """Every property required, none besides, at every depth."""

    def objects(schema: Any) -> list[Any]:
        if isinstance(schema, dict):
            return [schema] * (schema.get("type") == "object") + [x for each in schema.values() for x in objects(each)]
        return []

    found = objects(asked(name).rubric.schema(asked(name)))
    assert found
    for each in found:
        assert each["required"] == list(each["properties"])
        assert each["additionalProperties"] is False


@pytest.mark.parametrize("name", RUBRICS)
def test_what_a_schema_allows_is_read(name: str) -> None:
    question = asked(name)
    assert question.rubric.read(question, json.dumps(_instance(question.rubric.schema(question)))) is not None


def _instance(schema: Any) -> Any:
    match schema["type"]:
        case "object":
            return {key: _instance(each) for key, each in schema["properties"].items()}
        case "array":
            return [_instance(schema["items"])]
        case "string":
            return schema.get("enum", ["text"])[0]
        case "boolean":
            return True
        case _:
            return 5


def test_examples_show_the_form_and_favor_no_answer() -> None:
    either = '"concrete" or "abstract" or "global" or "unrelated"'
    expected = {
        "patch": f'{{"reasoning": "…", "verdicts": {{"1": {either}, "2": {either}}}}}',
        "claims": '{"claims": ["…", …]}',
        "support": '{"supported": {"1": true or false, "2": true or false}}',
        "mark": '{"reasoning": "…", "mark": <integer>}',
    }
    for name, example in expected.items():
        question = asked(name, 2)
        assert question.rubric.example(question) == example
        with pytest.raises(Unreadable):  # a judge that repeats it has not answered
            question.rubric.read(question, example)


@pytest.mark.parametrize("name", RUBRICS)
def test_a_filled_rubric_has_no_place_left(name: str) -> None:
    question = asked(name)
    assert re.findall(r"\{\w+\}", find_rubric(name).text) != []
    assert re.findall(r"\{\w+\}", question.text) == []
    if question.rubric.name in ("patch", "sentence", "support"):
        assert question.text.endswith("1. word 0\n2. word 1\n3. word 2")


def test_places_in_what_is_filled_in_stay(tmp_path: Path) -> None:
    texts = {"description": "It says {evidence} and {claims}.", "evidence": "x"}
    question = Question(find_rubric("claims"), texts=texts)
    assert question.text.endswith("It says {evidence} and {claims}.")


# Finding


def test_another_wording_is_another_rubric(tmp_path: Path) -> None:
    shipped = find_rubric("patch")
    path = tmp_path / "mine.md"
    path.write_text(f"{shipped.text}\nBe quick.")
    mine = find_rubric("patch", path)
    assert (mine.name, type(mine)) == ("patch", type(shipped))
    assert mine.hash != shipped.hash
    path.write_text(shipped.text)
    assert find_rubric("patch", path) == shipped
    hashes = {find_rubric(name).hash for name in RUBRICS}
    assert len(hashes) == len(RUBRICS)


def test_kinds_with_the_same_text_are_not_the_same() -> None:
    kinds: list[type[Rubric]] = [RUBRICS["claims"], RUBRICS["mark"]]
    assert len({kind("x", "the same text").hash for kind in kinds}) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("path", None, "no rubric called 'path'. Known: patch, sentence, claims, support, mark"),
        ("patch", None, "Reading the rubric .* failed"),
        ("patch", b"\xff\xfe", "Reading the rubric .* failed"),
        ("patch", b"Which word fits?", "lacks the place {candidates}"),
        ("support", b"{evidence}", "lacks the place {claims}"),
    ],
)
def test_rubrics_that_cannot_be_used(tmp_path: Path, name: str, text: bytes | None, message: str) -> None:
    path = tmp_path / "mine.md"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(OptionError, match=message):
        find_rubric(name, path)
