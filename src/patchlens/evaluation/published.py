"""The published figures of the LatentLens paper, to lay a run of ours beside.

The numbers are in `published.json`, each with where it was taken from; layers there and here are our layers (0 is what
enters the first block). This file knows no run, no judge and no figure.

    published().for_model("llava-hf/llava-1.5-7b-hf")      the model's row, None if the paper has none
    published().interpretability("OLMo+CLIP", "latent")    {0: 70.0, 1: 64.0, …}, percent of patches
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from patchlens.errors import OptionError

__all__ = ["LENSES", "Curve", "Headline", "Published", "PublishedModel", "Table", "published"]

LENSES = ("latent", "logit", "embedding")
"""The lenses that the paper compares, by our names."""


@dataclass(frozen=True)
class Curve:
    """Published figures of one model by layer."""

    what: str
    """What the values are, with their unit."""
    values: Mapping[int, float]
    """By layer, ascending."""
    n: str
    """How much each value rests on, such as `100 patches`."""
    source: str
    """Where the values were taken from."""


@dataclass(frozen=True)
class PublishedModel:
    """What is published of one vision-language model."""

    name: str
    """As the paper names it; those that the authors trained are named by their parts, `OLMo+CLIP`."""
    hub_ids: tuple[str, ...]
    """Its Hugging Face ids; none for those that the authors trained."""
    controlled: bool
    """Whether the authors trained it: a frozen language model and a frozen vision encoder with a projector between."""
    language_model: str
    """The language model, or what it was fine-tuned from."""
    vision_encoder: str | None
    """The vision encoder; None where our reference does not give it."""
    depth: int
    """Blocks of the language model."""
    patches: int
    """Patches judged at each layer with each lens. A few cells have fewer: theirs are no whole shares of it."""
    interpretability: Mapping[str, Curve]
    """By lens: percent of patches that the judge found interpretable."""
    averages: Mapping[str, float]
    """By lens: the mean over the layers, to one decimal."""
    neighbors: Mapping[int, Curve]
    """By visual layer: percent of LatentLens's top-5 neighbors from each contextual layer."""
    drift: Mapping[str, Curve]
    """Of `visual` and of `text` tokens: cosine with layer 0; without those that are not published."""
    similarity: Curve | None
    """Mean cosine with the nearest contextual embedding; None if not published."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The visual layers that were judged."""
        return tuple(self.interpretability["latent"].values)


@dataclass(frozen=True)
class Headline:
    """The mean over models and layers that a version of the paper leads with."""

    name: str
    """Which version."""
    models: int
    """Models in the mean."""
    percentages: Mapping[str, float]
    """By lens: percent of patches."""
    source: str
    """Where they were taken from."""
    note: str | None
    """What to know before comparing with them."""


@dataclass(frozen=True)
class Table:
    """Published figures that are not by layer."""

    name: str
    what: str
    """What the values are, with their unit."""
    n: str | None
    """How much each value rests on; None if it is not known."""
    source: str
    """Where the values were taken from."""
    rows: Mapping[str, Mapping[str, float]]
    """By row and column; a range has the columns `low` and `high`."""


@dataclass(frozen=True)
class Published:
    """All published figures."""

    paper: str
    """The paper, with its version."""
    models: tuple[PublishedModel, ...]
    """The nine that the authors trained, then the six off the shelf."""
    headlines: tuple[Headline, ...]
    """The newest version first."""
    tables: Mapping[str, Table]
    """By name."""

    def model(self, name: str) -> PublishedModel:
        """A model by the paper's name or its Hugging Face id, in upper or lower case.

        Raises:
            OptionError: The paper has no such model; the message lists those it has.
        """
        for model in self.models:
            if name.casefold() in (known.casefold() for known in (model.name, *model.hub_ids)):
                return model
        known = ", ".join(part for model in self.models for part in (model.name, *model.hub_ids))
        raise OptionError(f"Nothing is published of the model {name!r}. Known: {known}.")

    def for_model(self, hub_id: str) -> PublishedModel | None:
        """The published model that a Hugging Face id stands for; None if the paper has none."""
        owners = {known.casefold(): model for model in self.models for known in model.hub_ids}
        return owners.get(hub_id.casefold())

    def interpretability(self, model: str, lens: str) -> dict[int, float]:
        """Percent of patches that are interpretable, by layer.

        Raises:
            OptionError: The paper has no such model or lens; the message lists those it has.
        """
        curves = self.model(model).interpretability
        if lens not in curves:
            raise OptionError(f"Nothing is published of the lens {lens!r}. Known: {', '.join(LENSES)}.")
        return dict(curves[lens].values)


def published() -> Published:
    """Open the published figures that come with the package."""
    record = json.loads((files("patchlens.evaluation") / "published.json").read_text("utf-8"))
    tables = (
        Table(**table | {"rows": {row: _floats(values) for row, values in table["rows"].items()}})
        for table in record["tables"]
    )
    return Published(
        record["paper"],
        tuple(_model(model, record["curves"]) for model in record["models"]),
        tuple(Headline(**line | {"percentages": _floats(line["percentages"])}) for line in record["headlines"]),
        {table.name: table for table in tables},
    )


def _model(record: dict[str, Any], about: dict[str, dict[str, Any]]) -> PublishedModel:
    def curve(kind: str, layers: Iterable[int], values: Iterable[Any], n: str) -> Curve:
        points = {layer: float(value) for layer, value in zip(layers, values, strict=True)}
        return Curve(about[kind]["what"], points, n, about[kind]["source"])

    def of_images(kind: str) -> str:
        return f"{about[kind]['images']} images"

    layers, patches = record["layers"], f"{record['patches']} patches"
    similarity = record.get("similarity")
    return PublishedModel(
        record["name"],
        tuple(record["hub_ids"]),
        record["controlled"],
        record["language_model"],
        record["vision_encoder"],
        record["depth"],
        record["patches"],
        {
            lens: curve("interpretability", layers, values, patches)
            for lens, values in record["interpretability"].items()
        },
        _floats(record["averages"]),
        {
            layer: curve("neighbors", record["contextual_layers"], _percent(counts), f"{sum(counts):,} neighbors")
            for layer, counts in zip(layers, record["neighbors"], strict=True)
        },
        {
            tokens: curve("drift", range(1, len(values) + 1), values, of_images("drift"))
            for tokens, values in record.get("drift", {}).items()
        },
        similarity and curve("similarity", map(int, similarity), similarity.values(), of_images("similarity")),
    )


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _percent(counts: list[int]) -> list[float]:
    total = sum(counts)
    return [100 * count / total for count in counts]
