"""The parts of a study, as its file has them: one dataclass for each table, one field for each key."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from patchlens.study.toml import Limit, one_of

__all__ = [
    "BASELINES",
    "JUDGES",
    "BankConfig",
    "CaptionsConfig",
    "EndpointConfig",
    "FromOne",
    "FromZero",
    "ImagesConfig",
    "JudgeConfig",
    "Layers",
    "LensConfig",
    "ModelConfig",
    "ModelJudgeConfig",
    "ReplayConfig",
    "Text",
    "TruthConfig",
    "Unique",
]

BASELINES = ("random rows", "another image")
"""What a share is held against: random rows of the bank, and what was read in another image."""

_LAYERS = re.compile(r"-?\d+(--?\d+)?")


def _whole(least: int) -> Limit:
    return Limit(f"a whole number from {least}", lambda value: least <= value < 2**63)


def _are_layers(value: str | int | tuple[int, ...]) -> bool:
    if not isinstance(value, str):
        return value != ()
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return value == "all" or (parts != [] and all(map(_LAYERS.fullmatch, parts)))


Label: TypeAlias = Annotated[
    str,
    Limit(
        "a text of one line, without space around it", lambda text: text.isprintable() and text == text.strip() != ""
    ),
]
Text: TypeAlias = Annotated[str, Limit("a text that is not empty", lambda text: text.strip() != "")]
FromZero: TypeAlias = Annotated[int, _whole(0)]
FromOne: TypeAlias = Annotated[int, _whole(1)]
Share: TypeAlias = Annotated[float, Limit("a number above 0 and at most 1", lambda share: 0 < share <= 1)]
Amount: TypeAlias = Annotated[float, Limit("a number from 0", lambda amount: amount >= 0)]
Positive: TypeAlias = Annotated[float, Limit("a number above 0", lambda amount: amount > 0)]
Dtype: TypeAlias = Annotated[str, one_of(("auto", "float32", "bfloat16", "float16"))]
Unique: TypeAlias = Annotated[str, one_of(("none", "word"))]
BankLayers: TypeAlias = Annotated[
    str | int | tuple[int, ...],
    Limit("'auto', 'all', numbers, or text such as '1,4,8-12'", lambda value: value == "auto" or _are_layers(value)),
]
Layers: TypeAlias = Annotated[
    str | int | tuple[int, ...], Limit("'all', numbers, or text such as '0,4,8-12,-1'", _are_layers)
]


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """[images]: the pictures, from exactly one of an embedded model, a folder, or a list of files."""

    embedded: Text | None = None
    """The embedded model that draws them, held out from its training and with all that is true of them."""
    folder: Path | None = None
    """A folder of image files, taken by name. A .json of a picture's name beside it is its truth, as `open_truth` takes
    it."""
    files: tuple[Path, ...] = ()
    """Image files."""
    count: FromOne | None = None
    """How many, at most; None for all, of an embedded model 300."""
    first: FromZero = 0
    """Leave out so many before the first."""
    references: Path | None = None
    """Captions that people wrote: lines of {"image": name, "caption": text}."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """[[models]]: a model that is read."""

    name: Text
    """An embedded model, a folder or a Hub id, see `load_model`."""
    label: Label = ""
    """What rows and tables call it; left out, the last part of its name."""
    bank: Text | None = None
    """Bank of its lenses: the label of one in [[banks]], a folder, a Hub id or an embedded name. An embedded model has
    its own."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    dtype: Dtype = "auto"
    """What its weights are loaded as."""
    device_map: Text | None = None
    """Where it is put; None for the CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with it."""
    layers: Layers | None = None
    """Layers to read; None for the study's."""
    published: Text | None = None
    """Which published model it is, as the paper calls it or by Hub id; None to go by its name."""


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """[[banks]]: a bank that the study builds. None: as in the embedded model's own bank, otherwise `build_bank`'s."""

    label: Label
    """What models and lenses call it."""
    model: Label | None = None
    """The label of the model that it is built with; None to build one with each model that uses it."""
    corpus: Text | None = None
    """What `read_corpus` takes; None for the embedded model's own."""
    column: Text | None = None
    """Column of the corpus."""
    share: Share = 1.0
    """Build it of a part of the corpus's sentences, drawn by the study's seed."""
    layers: BankLayers | None = None
    """Contextual layers; "auto" for the paper's."""
    per_token: FromOne | None = None
    """Contexts kept per token id, at most."""
    choose: Text | None = None
    """Which of them: "spread", "reservoir" or "first"."""
    words: Annotated[str, one_of(("all", "final"))] | None = None
    """"all" tokens, or the "final" one of each word."""
    skip_positions: FromZero | None = None
    """Leave out this many positions at the start of each sentence; None for the first alone."""
    dtype: Text | None = None
    """What its vectors are stored as."""
    seed: FromZero | None = None
    """Seed of the choice."""

    def options(self) -> dict[str, Any]:
        """Those of `build_bank`'s options that were given."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("label", "model", "corpus", "share") and getattr(self, field.name) is not None
        }


@dataclass(frozen=True, kw_only=True)
class LensConfig:
    """[[lenses]]: a lens, and what it reads with."""

    lens: Text
    """One of `LENSES`."""
    label: Label = ""
    """What rows and tables call it; left out, the lens's name."""
    group: Label = "main"
    """Table of comparison that it belongs to: "main", "bank size", "corpus", or any other."""
    models: tuple[Label, ...] = ()
    """Labels of the models that are read with it; none for all."""
    bank: Text | None = None
    """As a model's; None for the model's."""
    share: Share = 1.0
    """Search a part of the bank's rows only, drawn by the study's seed."""
    contextual_layers: tuple[FromZero, ...] | None = None
    """Contextual layers to search; None for all that the bank holds."""
    space: Text = "raw"
    """Where cosines are taken, see `ExactIndex`."""
    unique: Unique | None = None
    """Whether candidates are different words; None for the study's."""
    layers: Layers | None = None
    """Layers to read; None for the model's or the study's."""
    judged: bool = True
    """Whether judges are asked about it."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """[[judges]]: what every judge can be told; `JUDGES` are the kinds."""

    label: Label = ""
    """What rows and tables call it; left out, what it is."""
    rubric: Annotated[str, one_of(("patch", "sentence"))] = "patch"
    """What it is told to do."""
    rubric_file: Path | None = None
    """A text of one's own for that rubric, see `find_rubric`."""
    lenses: tuple[Label, ...] | None = None
    """Labels of the lenses that it is asked about; None for all that are judged, none for captions alone."""
    layers: Layers | None = None
    """Layers that it is asked about; None for the study's `judged_layers`."""


@dataclass(frozen=True, kw_only=True)
class TruthConfig(JudgeConfig):
    """judge = "truth": what is known of each patch."""

    judge: Annotated[str, one_of(("truth",))] = "truth"
    """Which kind of judge this is."""
    pieces: FromZero = 0
    """Take a piece of so many letters for a word that begins with it; 0 for whole words alone."""


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(JudgeConfig):
    """judge = "endpoint": a model behind an OpenAI-compatible service. What is None is the judge's own."""

    judge: Annotated[str, one_of(("endpoint",))] = "endpoint"
    """Which kind of judge this is."""
    url: Annotated[str, Limit("a URL, 'https://…'", lambda url: bool(re.match(r"https?://[^/\s]", url)))]
    """Base address of the service."""
    model: Text
    """What the service calls the model."""
    key_env: Text = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never written down."""
    temperature: Amount | None = None
    """Sampling temperature."""
    timeout: Positive | None = None
    """Seconds to wait for a reply."""
    tries: FromOne | None = None
    """Times that a question is sent, at most."""
    workers: FromOne | None = None
    """Questions that are under way at once."""
    requests_per_minute: Positive | None = None
    """Limit of the service."""
    input_price: Amount | None = None
    """Of a million tokens sent."""
    output_price: Amount | None = None
    """Of a million tokens that come back."""
    budget: Amount | None = None
    """What all questions may cost, in the currency of the prices."""
    image_tokens: FromOne | None = None
    """Tokens that one picture is counted as, for the estimate."""
    max_tokens: FromOne | None = None
    """Of a reply, at most."""
    options: dict[str, Any] | None = None
    """What else is put into each request."""


@dataclass(frozen=True, kw_only=True)
class ModelJudgeConfig(JudgeConfig):
    """judge = "model": a vision-language model that patchlens loads. What is None is the judge's own."""

    judge: Annotated[str, one_of(("model",))] = "model"
    """Which kind of judge this is."""
    model: Text
    """As the name of one in [[models]]."""
    dtype: Dtype = "auto"
    """What its weights are loaded as."""
    device_map: Text | None = None
    """Where it is put; None for the CPU."""
    max_tokens: FromOne | None = None
    """Of a reply, at most."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(JudgeConfig):
    """judge = "replay": answers from a recording."""

    judge: Annotated[str, one_of(("replay",))] = "replay"
    """Which kind of judge this is."""
    path: Path
    """The recording."""


JUDGES: dict[str, type[JudgeConfig]] = {
    "truth": TruthConfig,
    "endpoint": EndpointConfig,
    "model": ModelJudgeConfig,
    "replay": ReplayConfig,
}
"""What each kind of judge is told."""


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """[captions]: how well the models describe the pictures."""

    enabled: bool = True
    """Whether they are asked to; without this table they are not."""
    max_tokens: FromOne = 64
    """Of a description, at most."""
    count: FromOne | None = None
    """Pictures that are described, at most; None for all."""
    judges: tuple[Label, ...] = ()
    """Labels of judges that take descriptions apart and mark them. Where all is known of a picture, descriptions are
    compared with that in any case."""
