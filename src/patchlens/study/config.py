"""What a study is: a TOML file, read and checked as a whole before anything is loaded.

What one part says of another is checked too: labels, banks, and which lens is judged by whom.
"""

import os
import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from patchlens.errors import OptionError
from patchlens.evaluation.published import published
from patchlens.models.embedded import embedded_names
from patchlens.storage import readable
from patchlens.study.parts import (
    BASELINES,
    JUDGES,
    BankConfig,
    CaptionsConfig,
    EndpointConfig,
    FromOne,
    FromZero,
    ImagesConfig,
    JudgeConfig,
    Layers,
    LensConfig,
    ModelConfig,
    ModelJudgeConfig,
    ReplayConfig,
    Text,
    TruthConfig,
    Unique,
)
from patchlens.study.toml import Found, Limit, nearest, one_of, read_table, write_table

__all__ = [
    "BASELINES",
    "JUDGES",
    "BankConfig",
    "CaptionsConfig",
    "EndpointConfig",
    "ImagesConfig",
    "JudgeConfig",
    "Layers",
    "LensConfig",
    "ModelConfig",
    "ModelJudgeConfig",
    "ReplayConfig",
    "StudyConfig",
    "TruthConfig",
    "open_study",
    "parse_study",
    "template",
    "template_names",
]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BANKED = "latent"  # the lens that reads with a bank
_OF_BANKS = ("bank", "share", "contextual_layers", "space")  # what only that lens can be told
_WORDNET = "wordnet:"
_NO_CAPTIONS = CaptionsConfig(enabled=False)
_PARTS = ("images", "models", "banks", "lenses", "judges", "captions")  # tables of their own


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study; [study] in the file has all that is no table of its own."""

    title: Text
    """Headline of the report."""
    seed: FromZero = 0
    """Of all that is drawn: regions, samples, parts of banks."""
    k: FromOne = 5
    """Candidates per visual token, layer and lens."""
    layers: Layers = "all"
    """Layers to read."""
    judged_layers: Layers | None = None
    """Layers that judges are asked about; None for all that are read."""
    prompt: Text = "Describe this image."
    """What is said beside each picture."""
    unique: Unique = "none"
    """Whether a token's candidates are different "word"s, or come as the lens ranks them."""
    survey: FromZero = 8
    """Visual tokens per picture, besides the judged one, that the analyses look at."""
    baselines: tuple[Annotated[str, one_of(BASELINES)], ...] = BASELINES
    """What is put beside every share."""
    beside: tuple[Text, ...] = ()
    """Published models to draw beside ours although they are others, as the paper calls them."""
    batch: FromOne = 16
    """Pictures per file of records: what is lost at most when the study is killed."""
    lexicon: Annotated[
        str, Limit("'' or 'wordnet:FOLDER'", lambda text: text == "" or text.removeprefix(_WORDNET) not in ("", text))
    ] = ""
    """Where word classes are looked up; an embedded model knows its own words."""
    images: ImagesConfig
    """The pictures."""
    models: tuple[ModelConfig, ...]
    """At least one."""
    banks: tuple[BankConfig, ...] = ()
    """Those that the study builds."""
    lenses: tuple[LensConfig, ...]
    """At least one."""
    judges: tuple[JudgeConfig, ...] = ()
    """None for a study of the lenses' words alone."""
    captions: CaptionsConfig = _NO_CAPTIONS
    """Descriptions by the models themselves."""

    def lenses_of(self, model: ModelConfig) -> tuple[LensConfig, ...]:
        """The lenses that a model is read with."""
        return tuple(lens for lens in self.lenses if not lens.models or model.label in lens.models)

    def judged_by(self, judge: JudgeConfig) -> tuple[LensConfig, ...]:
        """The lenses that a judge is asked about."""
        asked = [lens.label for lens in self.lenses] if judge.lenses is None else judge.lenses
        return tuple(lens for lens in self.lenses if lens.judged and lens.label in asked)

    def to_toml(self) -> str:
        """The study as a file, with all that was filled in; reading it gives this study again."""
        written = [write_table("[study]", self, without=_PARTS), write_table("[images]", self.images)]
        for name in ("models", "banks", "lenses", "judges"):
            written += [write_table(f"[[{name}]]", entry) for entry in getattr(self, name)]
        return "\n".join([*written, write_table("[captions]", self.captions)])


def open_study(path: str | Path) -> StudyConfig:
    """Read a study's file.

    Raises:
        OptionError: There is no such file, it is not TOML, or its contents are not a study's; names table and key.
        StorageError: The disk does not let it be read.
    """
    path = Path(path)
    try:
        with readable(path):
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 (byte {error.start + 1})"
        raise OptionError(
            f"Reading the study {path} failed: {why}. Give a TOML file; 'patchlens study --template NAME' prints one "
            f"to begin with, NAME being one of {', '.join(template_names())}."
        ) from error
    return parse_study(text, path.parent, source=f"the study {path}")


def parse_study(text: str, base: Path, *, source: str = "the study") -> StudyConfig:
    """Read a study from the text of its file.

    Args:
        text: TOML.
        base: Relative paths in it are relative to this folder.
        source: What is read, for messages.

    Raises:
        OptionError: It is not TOML, or not a study; names table and key.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own, numbers of too many digits, brackets without end
        raise OptionError(f"Reading {source}: it is not TOML: {error}. Correct that place.") from error
    top = Found(source, "the file", tables, base)
    known = ("study", *_PARTS)
    for name in tables:
        if name not in known:
            raise top.error(f"has the unknown table [{name}]. {nearest(name, known)}It takes {', '.join(known)}.")
    settings, images = _settings(_table(top, "study")), _images(_table(top, "images"))
    bank_tables = _tables(top, "banks")
    banks = _banks(bank_tables)
    models = _models(_tables(top, "models"), banks)
    _check_banks(bank_tables, banks, models)
    lenses = _lenses(_tables(top, "lenses"), models, banks)
    judges = _judges(_tables(top, "judges"), lenses)
    for name in (*settings.get("beside", ()), *(model.published for model in models if model.published is not None)):
        published().model(name)  # is there, or an error lists those that are
    return StudyConfig(
        **settings,
        images=images,
        models=models,
        banks=banks,
        lenses=lenses,
        judges=judges,
        captions=_captions(_table(top, "captions"), judges) if "captions" in tables else _NO_CAPTIONS,
    )


def template_names() -> tuple[str, ...]:
    """Names of the studies that ship with patchlens."""
    there = (files("patchlens.study") / "templates").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in there if entry.name.endswith(".toml")))


def template(name: str) -> str:
    """The file of a study that ships with patchlens, to run or to change.

    Raises:
        OptionError: There is none of this name.
    """
    if name not in template_names():
        raise OptionError(
            f"There is no study template called {name!r}. {nearest(name, template_names())}"
            f"Known: {', '.join(template_names())}."
        )
    return (files("patchlens.study") / "templates" / f"{name}.toml").read_text(encoding="utf-8")


def _table(top: Found, name: str) -> Found:
    if name not in top.values:
        raise top.error(f"lacks the table [{name}]. Add it; 'patchlens study --template' prints whole studies.")
    if not isinstance(top.values[name], dict):
        raise top.error(f"has {name!r} as something else than one table. Write it once, under [{name}].")
    return replace(top, name=f"[{name}]", values=top.values[name])


def _tables(top: Found, name: str) -> list[Found]:
    entries = top.values.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise top.error(f"has {name!r} as something else than a list of tables. Write [[{name}]] above each.")
    if not entries and name in ("models", "lenses"):
        raise top.error(f"has no [[{name}]]. Add at least one.")
    return [replace(top, name=f"[[{name}]] number {number}", values=each) for number, each in enumerate(entries, 1)]


def _settings(found: Found) -> dict[str, Any]:
    settings = read_table(StudyConfig, found, without=_PARTS)
    if lexicon := settings.get("lexicon"):
        settings["lexicon"] = _WORDNET + found.path(lexicon.removeprefix(_WORDNET))
    return settings


def _images(found: Found) -> ImagesConfig:
    images = ImagesConfig(**read_table(ImagesConfig, found))
    given = [key for key in ("embedded", "folder", "files") if getattr(images, key)]
    if len(given) != 1:
        raise found.error(f"has {' and '.join(given) or 'none'} of embedded, folder and files. Give exactly one.")
    found.check("embedded", one_of(embedded_names()))
    return images


def _banks(tables: Sequence[Found]) -> tuple[BankConfig, ...]:
    from patchlens.bank.encoding import DTYPES
    from patchlens.bank.plan import RULES

    banks = []
    for found in tables:
        bank = BankConfig(**read_table(BankConfig, found))
        found.check("choose", one_of(RULES))
        found.check("dtype", one_of(DTYPES))
        banks.append(replace(bank, corpus=_corpus(found, bank.corpus)))
    _refuse_doubles(tables, banks)
    return tuple(banks)


def _models(tables: Sequence[Found], banks: Sequence[BankConfig]) -> tuple[ModelConfig, ...]:
    models = []
    for found in tables:
        model = ModelConfig(**read_table(ModelConfig, found))
        name = _folder_or_name(found, model.name)
        own = name if name in embedded_names() else None
        bank = _bank(found, model.bank, banks) or own
        models.append(replace(model, name=name, label=model.label or Path(name).name, bank=bank))
        _check_bank(found, models[-1].bank, models[-1], banks)
    _refuse_doubles(tables, models)
    return tuple(models)


def _lenses(
    tables: Sequence[Found], models: Sequence[ModelConfig], banks: Sequence[BankConfig]
) -> tuple[LensConfig, ...]:
    from patchlens.lenses.registry import LENSES
    from patchlens.search.space import SPACES

    lenses = []
    for found in tables:
        lens = LensConfig(**read_table(LensConfig, found))
        found.check("lens", one_of(LENSES))
        found.check("space", one_of(SPACES))
        found.check("contextual_layers", Limit("at least one layer", bool))
        for label in lens.models:
            _check_known(found, "model", label, [model.label for model in models])
        if lens.lens == _BANKED:
            lens = _with_banks(found, lens, models, banks)
        elif useless := [key for key in _OF_BANKS if getattr(lens, key) != getattr(LensConfig, key)]:
            raise found.error(f"has {useless[0]!r}, which means nothing to the lens {lens.lens!r}. Leave it out.")
        lenses.append(replace(lens, label=lens.label or lens.lens))
    _refuse_doubles(tables, lenses)
    return tuple(lenses)


def _with_banks(
    found: Found, lens: LensConfig, models: Sequence[ModelConfig], banks: Sequence[BankConfig]
) -> LensConfig:
    """The lens, for the one model of its bank if that was built with one; every model has a bank for it."""
    name = _bank(found, lens.bank, banks)
    builder = next((bank.model for bank in banks if bank.label == name), None)
    if builder is not None and not lens.models:
        lens = replace(lens, models=(builder,))
    for model in models:
        if lens.models and model.label not in lens.models:
            continue
        if name is None and model.bank is None:
            raise found.error(
                f"reads {model.label!r} with the lens {lens.lens!r}, for which there is no bank. Give one to that "
                "model, or to this lens."
            )
        _check_bank(found, name, model, banks)
    return replace(lens, bank=name)


def _judges(tables: Sequence[Found], lenses: Sequence[LensConfig]) -> tuple[JudgeConfig, ...]:
    judges = []
    judged = [lens.label for lens in lenses if lens.judged]
    for found in tables:
        if "judge" not in found.values:
            raise found.error(f"lacks the key 'judge'. Add it: {one_of(JUDGES).expected}.")
        found.check("judge", Limit(one_of(JUDGES).expected, lambda kind: isinstance(kind, str) and kind in JUDGES))
        kind = JUDGES[found.values["judge"]]
        judge = kind(**read_table(kind, found))
        if isinstance(judge, ModelJudgeConfig):
            judge = replace(judge, model=_folder_or_name(found, judge.model))
        for label in judge.lenses or ():
            _check_known(found, "judged lens", label, judged)
        judges.append(replace(judge, label=judge.label or _default_label(judge)))
    _refuse_doubles(tables, judges)
    return tuple(judges)


def _default_label(judge: JudgeConfig) -> str:
    match judge:
        case TruthConfig() if judge.pieces:
            return f"truth, pieces of {judge.pieces} letters"
        case EndpointConfig() | ModelJudgeConfig():
            return Path(judge.model).name
    return next(name for name, kind in JUDGES.items() if isinstance(judge, kind))


def _captions(found: Found, judges: Sequence[JudgeConfig]) -> CaptionsConfig:
    captions = CaptionsConfig(**read_table(CaptionsConfig, found))
    able = [judge.label for judge in judges if not isinstance(judge, TruthConfig)]
    for label in captions.judges:
        _check_known(found, "judge of descriptions", label, able)
    return captions


def _check_banks(tables: Sequence[Found], banks: Sequence[BankConfig], models: Sequence[ModelConfig]) -> None:
    """Refuse banks of models that are not there."""
    for found, bank in zip(tables, banks, strict=True):
        if bank.model is not None:
            _check_known(found, "model", bank.model, [model.label for model in models])


def _check_bank(found: Found, name: str | None, model: ModelConfig, banks: Sequence[BankConfig]) -> None:
    """Refuse a bank of the study that was built with another model, or has nothing to be built of."""
    bank = next((bank for bank in banks if bank.label == name), None)
    if bank is None:
        return
    if bank.model not in (None, model.label):
        raise found.error(
            f"reads {model.label!r} with the bank {bank.label!r}, which is built with {bank.model!r}. Name another "
            "bank, or leave 'model' out of that one: then each model that uses it gets its own."
        )
    if bank.corpus is None and model.name not in embedded_names():
        raise found.error(
            f"reads {model.label!r} with the bank {bank.label!r}, which has no corpus. Give it one; only embedded "
            "models bring theirs."
        )


def _check_known(found: Found, what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        there = ", ".join(map(repr, known)) or "none"
        raise found.error(f"names the {what} {name!r}, which is not there. {nearest(name, known)}Known: {there}.")


def _refuse_doubles(
    tables: Sequence[Found], entries: Sequence[ModelConfig | BankConfig | LensConfig | JudgeConfig]
) -> None:
    first: dict[str, Found] = {}
    for found, entry in zip(tables, entries, strict=True):
        earlier = first.setdefault(entry.label, found)
        if earlier is not found:
            raise found.error(f"has the label {entry.label!r}, as {earlier.name}. Give each a 'label' of its own.")


def _bank(found: Found, name: str | None, banks: Sequence[BankConfig]) -> str | None:
    """A bank's label, embedded name, folder or Hub id."""
    labels = [bank.label for bank in banks]
    if name is None or name in labels:
        return name
    place = _folder_or_name(found, name)
    if place == name and name not in embedded_names() and not os.path.isabs(name) and not _HUB_ID.fullmatch(name):
        known = (*labels, *embedded_names())
        raise found.error(
            f"names the bank {name!r}, which is no label in [[banks]], no embedded model, no folder and no Hub id. "
            f"{nearest(name, known)}Known: {', '.join(map(repr, known)) or 'none'}."
        )
    return place


def _corpus(found: Found, corpus: str | None) -> str | None:
    """A corpus of the Hub or of another file system as it is, a file's path made absolute."""
    if corpus is None or corpus.startswith("hf:") or "://" in corpus:
        return corpus
    if corpus == "-":
        raise found.wrong("corpus", "a file, 'hf:owner/name' or a URL: a study reads its corpus again when it resumes")
    return found.path(corpus)


def _folder_or_name(found: Found, name: str) -> str:
    """A folder's path made absolute; a Hub id or an embedded model's name as it is."""
    path = found.path(name)
    if name in embedded_names() or not (name.startswith(("/", "./", "../", "~")) or os.path.exists(path)):
        return name
    return path
