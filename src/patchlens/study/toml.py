"""Tables of a TOML file as frozen dataclasses, and back.

A field's annotation says what its value may be, and in its `Annotated` part within what limits; all messages are made
of that. Knows nothing of studies.
"""

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from patchlens.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Found", "Limit", "nearest", "one_of", "read_table", "write_table"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LARGE = 1e300  # whole numbers of TOML may be larger than any float
_LINE = 100  # characters; a longer list gets a line for each of its values


@dataclass(frozen=True)
class Limit:
    """What a value has to be besides its type."""

    expected: str
    """In words: "a whole number from 1"."""
    fits: Callable[[Any], bool]
    """Whether a value of the right type is."""


def one_of(known: Collection[str]) -> Limit:
    """A text that is one of these."""
    return Limit(f"one of {', '.join(map(repr, known))}", known.__contains__)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the most similar of some names, and a space; empty if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


@dataclass(frozen=True)
class Found:
    """A table as it stands in a file."""

    source: str
    """What is read, for messages: "the study study.toml"."""
    name: str
    """As the file calls it: "[images]", or "[[lenses]] number 2"."""
    values: Mapping[str, Any]
    """What TOML gives."""
    base: Path
    """Relative paths are relative to this folder."""

    def error(self, said: str) -> OptionError:
        """What is wrong here; `said` goes on after the table's name."""
        return OptionError(f"Reading {self.source}: {self.name} {said}")

    def wrong(self, key: str, expected: str) -> OptionError:
        """A value that is not what was expected."""
        return self.error(f"has {key} = {_shown(self.values[key])}. Expected {expected}.")

    def check(self, key: str, limit: Limit) -> None:
        """Hold a value, if it is there, to a limit that its type does not say.

        Raises:
            OptionError: It is beyond it.
        """
        if key in self.values and not limit.fits(self.values[key]):
            raise self.wrong(key, limit.expected)

    def path(self, text: str) -> str:
        """A path of the file, made absolute."""
        return os.path.abspath(os.path.join(self.base, os.path.expanduser(text)))


def read_table(kind: "type[DataclassInstance]", found: Found, without: Collection[str] = ()) -> dict[str, Any]:
    """The values of a dataclass's fields that a table gives.

    Args:
        kind: The dataclass.
        found: The table.
        without: Fields that do not come from this table.

    Raises:
        OptionError: A key is unknown or missing, or a value is of another type or beyond its limits.
    """
    hints = get_type_hints(kind, include_extras=True)
    taken = [field for field in fields(kind) if field.name not in without]
    known = [field.name for field in taken]
    for key in found.values:
        if key not in known:
            raise found.error(f"has the unknown key {key!r}. {nearest(key, known)}It takes {', '.join(known)}.")
    for field in taken:
        if field.default is MISSING and field.default_factory is MISSING and field.name not in found.values:
            raise found.error(f"lacks the key {field.name!r}. Add it: {_expected(hints[field.name])}.")
    values = {}
    for key, value in found.values.items():
        try:
            values[key] = _read(hints[key], value, found)
        except _Unfit:
            raise found.wrong(key, _expected(hints[key])) from None
    return values


def write_table(header: str, table: "DataclassInstance", without: Collection[str] = ()) -> str:
    """A dataclass as a table from which `read_table` reads the same; what is unknown is left out."""
    values = {field.name: getattr(table, field.name) for field in fields(table) if field.name not in without}
    lines = [f"{key} = {_write(value)}" for key, value in values.items() if value is not None]
    return "\n".join([header, *lines]) + "\n"


class _Unfit(Exception):
    """A value that is not what its field takes."""


def _read(hint: Any, value: Any, found: Found) -> Any:
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        made = _read(parts[0], value, found)
        if all(limit.fits(made) for limit in parts[1:]):
            return made
    elif kind in (Union, UnionType):
        for part in parts:
            try:
                return _read(part, value, found)
            except _Unfit:
                continue
    elif kind is tuple and isinstance(value, list):
        return tuple(_read(parts[0], each, found) for each in value)
    elif kind is dict and isinstance(value, dict) and _is_json(value):
        return value
    elif hint is Path and isinstance(value, str) and value:
        return Path(found.path(value))
    elif hint is float and type(value) in (int, float) and abs(value) < _LARGE:
        return float(value)
    elif hint in (str, bool, int) and type(value) is hint:
        return value
    raise _Unfit


def _expected(hint: Any) -> str:
    """What a field takes, in words."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return " and ".join(limit.expected for limit in parts[1:])
    if kind in (Union, UnionType):
        return " or ".join(_expected(part) for part in parts if part is not NoneType)
    if kind is tuple:
        return f"a list, each of it {_expected(parts[0])}"
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    return words.get(hint, "a table of texts, finite numbers, true, false, lists and tables")


def _is_json(value: Any) -> bool:
    """Whether JSON has such a value: TOML also has dates, infinity and NaN."""
    match value:
        case dict():
            return all(map(_is_json, value.values()))
        case list():
            return all(map(_is_json, value))
        case float():
            return math.isfinite(value)
    return isinstance(value, str | int)


def _write(value: Any) -> str:
    if isinstance(value, tuple) and len(_inline(value)) > _LINE:
        return "[\n" + "".join(f"    {_inline(each)},\n" for each in value) + "]"
    return _inline(value)


def _inline(value: Any) -> str:
    """A value on one line."""
    match value:
        case bool():
            return str(value).lower()
        case str() | Path():
            return _text(str(value))
        case tuple() | list():
            return f"[{', '.join(map(_inline, value))}]"
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    return str(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    # TOML escapes as JSON does, and also the one control character that JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(value: Any) -> str:
    """A value as the file has it, for messages; a long one cut."""
    text = _inline(value)
    return text if len(text) <= _LINE else f"{text[:_LINE]}…"
