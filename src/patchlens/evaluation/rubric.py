"""What a judge is told to do, and how its reply is understood. The texts are files in `rubrics/`, known by their hash.

A reply that cannot be understood raises `Unreadable`; nothing here turns it into an answer.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from patchlens.errors import OptionError
from patchlens.evaluation.question import Question, Shown
from patchlens.evaluation.verdict import VERDICTS
from patchlens.provenance import JSON

__all__ = ["RUBRICS", "Rubric", "Unreadable", "Verdicts", "find_rubric"]


class Unreadable(ValueError):
    """A reply that is not what the rubric asks for; the message says why. Judges turn it into an undecided answer."""


@dataclass(frozen=True)
class Rubric(ABC):
    """Instructions with places to fill, the form of the answer, and its reading."""

    name: str
    """As files, rows and the command line call it."""
    text: str
    """With places such as {candidates}."""
    shows_region: ClassVar[bool] = False
    """Whether the judge sees the marked image and the crop; otherwise the image alone, if there is one."""

    @cached_property
    def hash(self) -> str:
        """Of kind and text: another wording is another rubric."""
        return hashlib.sha256(f"{type(self).__name__}\n{self.text}".encode()).hexdigest()[:12]

    def fill(self, question: Question) -> str:
        """The text with a question's parts in their places."""
        parts = self._parts(question)
        return re.sub(r"\{(\w+)\}", lambda place: parts.get(place[1], place[0]), self.text).strip()

    def read(self, question: Question, reply: str) -> JSON:
        """What a reply says, as plain JSON values.

        The reply is JSON, perhaps with words or a code fence around it. Of several objects of the asked form the last
        one counts: whoever drafts an answer ends with it.

        Raises:
            Unreadable: No object in it has the asked form.
        """
        problem = "no JSON object in it"
        for found in reversed(list(_objects(reply))):
            try:
                return self._content(question, found)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                problem = f"a JSON object of another form ({error or type(error).__name__})"
        raise Unreadable(f"{problem}, where {self._form} was asked for")

    def example(self, question: Question) -> str:
        """An answer to a question in the asked form, with what its values may be: for models that see no schema."""
        return _example(self.schema(question))

    @abstractmethod
    def schema(self, question: Question) -> dict[str, JSON]:
        """The JSON schema of the answer to a question."""

    @property
    @abstractmethod
    def _form(self) -> str:
        """What the answer is, for messages."""

    def _parts(self, question: Question) -> Mapping[str, str]:
        return question.texts

    @abstractmethod
    def _content(self, question: Question, found: Mapping[str, Any]) -> JSON:
        """The answer in an object of the asked form; any of the errors that `read` catches for another."""


@dataclass(frozen=True)
class Verdicts(Rubric):
    """One verdict for each candidate. The answer is a list of verdicts in the order of the question's candidates."""

    shows_region: ClassVar[bool] = True

    def schema(self, question: Question) -> dict[str, JSON]:
        """A verdict under each candidate's number; what the judge thinks comes first, so that it thinks first."""
        numbers = [str(number) for number in range(1, len(question.candidates) + 1)]
        each: dict[str, JSON] = {number: {"type": "string", "enum": list(VERDICTS)} for number in numbers}
        return _object(reasoning={"type": "string"}, verdicts=_object(**each))

    @property
    def _form(self) -> str:
        return f"one of {', '.join(VERDICTS)} under each candidate's number in 'verdicts'"

    def _parts(self, question: Question) -> Mapping[str, str]:
        lines = [f"{number}. {_shown(c)}" for number, c in enumerate(question.candidates, start=1)]
        return {**question.texts, "candidates": "\n".join(lines)}

    def _content(self, question: Question, found: Mapping[str, Any]) -> JSON:
        said = found["verdicts"]
        given = [said[str(number)].strip().lower() for number in range(1, len(question.candidates) + 1)]
        if strange := [verdict for verdict in given if verdict not in VERDICTS]:
            raise ValueError(f"the verdict {strange[0]!r}")
        return given


@dataclass(frozen=True)
class Claims(Rubric):
    """A text taken apart; the answer is a list of sentences."""

    def schema(self, question: Question) -> dict[str, JSON]:
        """A list of texts."""
        return _object(claims={"type": "array", "items": {"type": "string"}})

    @property
    def _form(self) -> str:
        return "a list of sentences in 'claims'"

    def _content(self, question: Question, found: Mapping[str, Any]) -> JSON:
        if not isinstance(found["claims"], list):
            raise ValueError("claims that are no list")
        return [str(claim.strip()) for claim in found["claims"] if claim.strip()]


@dataclass(frozen=True)
class Support(Rubric):
    """Claims held against evidence; the answer is a list of booleans in the order of the claims.

    The claims come as candidates' words, and in the order in which they are given.
    """

    def schema(self, question: Question) -> dict[str, JSON]:
        """A boolean under each claim's number."""
        each: dict[str, JSON] = {str(n): {"type": "boolean"} for n in range(1, len(question.candidates) + 1)}
        return _object(supported=_object(**each))

    @property
    def _form(self) -> str:
        return "true or false under each claim's number in 'supported'"

    def _parts(self, question: Question) -> Mapping[str, str]:
        lines = [f"{number}. {claim.word}" for number, claim in enumerate(question.candidates, start=1)]
        return {**question.texts, "claims": "\n".join(lines)}

    def _content(self, question: Question, found: Mapping[str, Any]) -> JSON:
        given = [found["supported"][str(number)] for number in range(1, len(question.candidates) + 1)]
        if not all(isinstance(value, bool) for value in given):
            raise ValueError("something else than true and false")
        return given


@dataclass(frozen=True)
class Mark(Rubric):
    """A mark; the answer is a whole number from 1 to 10."""

    def schema(self, question: Question) -> dict[str, JSON]:
        """A number."""
        return _object(reasoning={"type": "string"}, mark={"type": "integer"})

    @property
    def _form(self) -> str:
        return "a whole number from 1 to 10 in 'mark'"

    def _content(self, question: Question, found: Mapping[str, Any]) -> JSON:
        mark = found["mark"]
        if isinstance(mark, bool) or mark != int(mark) or not 1 <= mark <= 10:
            raise ValueError(f"the mark {mark!r}")
        return int(mark)


RUBRICS: dict[str, type[Rubric]] = {
    "patch": Verdicts,
    "sentence": Verdicts,
    "claims": Claims,
    "support": Support,
    "mark": Mark,
}
"""The rubrics that ship, each with its text in `rubrics/<name>.md`."""


def find_rubric(name: str, path: str | Path | None = None) -> Rubric:
    """A rubric that ships, or its kind with a text of one's own.

    Args:
        name: One of `RUBRICS`.
        path: A file with another text that has the same places.

    Raises:
        OptionError: No rubric has this name, or the file cannot be read or lacks a place.
    """
    if name not in RUBRICS:
        raise OptionError(f"There is no rubric called {name!r}. Known: {', '.join(RUBRICS)}.")
    shipped = (files("patchlens.evaluation") / "rubrics" / f"{name}.md").read_text("utf-8")
    if path is None:
        return RUBRICS[name](name, shipped)
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"Reading the rubric {path} failed ({error}). Give a text file in UTF-8.") from error
    places = re.findall(r"\{\w+\}", shipped)
    if missing := [place for place in places if place not in text]:
        raise OptionError(
            f"The rubric {path} lacks the place {missing[0]}, which the rubric {name!r} fills. Put it where that "
            f"belongs; it has the places {', '.join(places)}."
        )
    return RUBRICS[name](name, text)


def _shown(candidate: Shown) -> str:
    """A candidate on one line: the word, or its sentence with the word between stars."""
    if candidate.sentence is None or candidate.span is None:
        return _one_line(candidate.word)
    start, end = candidate.span
    before, word, after = candidate.sentence[:start], candidate.sentence[start:end], candidate.sentence[end:]
    return _one_line(f"{before}**{word}**{after}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _object(**properties: JSON) -> dict[str, JSON]:
    """The schema of an object with exactly these properties, as strict endpoints want it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _example(schema: Mapping[str, Any]) -> str:
    match schema["type"]:
        case "object":
            return "{" + ", ".join(f'"{name}": {_example(each)}' for name, each in schema["properties"].items()) + "}"
        case "array":
            return f"[{_example(schema['items'])}, …]"
        case "string":
            return " or ".join(f'"{choice}"' for choice in schema.get("enum", ["…"]))
        case "boolean":
            return "true or false"
        case kind:
            return f"<{kind}>"


def _objects(reply: str) -> Iterator[Mapping[str, Any]]:
    """Every JSON object in a text that does not stand inside another one, in order."""
    decoder, place = json.JSONDecoder(), 0
    while (place := reply.find("{", place)) >= 0:
        try:
            found, place = decoder.raw_decode(reply, place)
        except (ValueError, RecursionError):  # cut short, no JSON, or a number with thousands of digits
            place += 1
            continue
        yield found
