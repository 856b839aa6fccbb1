"""`patchlens models`: what can be loaded, and what one model would cost."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlens.cli.options import Dtype, Json, Revision, TrustRemoteCode
from patchlens.cli.terminal import draw, say_json

if TYPE_CHECKING:
    from patchlens.models.survey import ImageCost, Survey

__all__ = ["models"]


def models(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="One model to look at: an embedded name, a folder or a Hub id.", show_default=False
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="WxH", help="An image size to count visual tokens for, such as 1280x720; repeatable."
        ),
    ] = None,
    json: Json = False,
    revision: Revision = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """List what can be read; or say, without loading its weights, what one model is and what it would cost."""
    if model is None:
        _list(json)
        return
    from patchlens.models.survey import SIZES, survey

    sizes = [_size(text) for text in size] if size else SIZES
    found = survey(model, sizes=sizes, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
    if json:
        say_json(_survey_json(found))
    else:
        _draw_survey(found)


def _size(text: str) -> tuple[int, int]:
    from patchlens.errors import OptionError

    found = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if found is None:
        raise OptionError(f"Cannot read {text!r} as an image size. Give width x height in pixels, such as 1280x720.")
    return int(found[2]), int(found[1])


def _list(json: bool) -> None:
    from patchlens.models.embedded import embedded, embedded_names
    from patchlens.models.registry import families

    shipped = [found for name in embedded_names() if (found := embedded(name)) is not None]
    known = families()
    if json:
        say_json(
            {
                "embedded": [
                    {"name": each.name, "summary": each.summary, "folder": str(each.folder)} for each in shipped
                ],
                "families": [
                    {
                        "family": each.family,
                        "takes": list(each.modalities),
                        "model_types": list(each.model_types),
                        "geometry": each.card.geometry,
                        "notes": list(each.card.notes),
                    }
                    for each in known
                ],
            }
        )
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = Table(box=box.SIMPLE_HEAD)
    names.add_column("name", no_wrap=True)
    names.add_column("what it is")
    for each in shipped:
        names.add_row(Text(each.name), Text(each.summary))
    kinds = Table(box=box.SIMPLE_HEAD)
    kinds.add_column("family", no_wrap=True)
    kinds.add_column("takes", no_wrap=True)
    kinds.add_column("where its visual tokens lie")
    for family in known:
        takes = " + ".join(kind for kind in family.modalities if kind != "text") or "text"
        kinds.add_row(family.family, takes, Text(family.card.geometry or _few(family.model_types)))
    draw(
        Text("Embedded models, which need no download", style="bold"), names if shipped else Text("  none installed\n")
    )
    draw(
        Text("Model families that can be read", style="bold"),
        kinds,
        Text(
            "Other multimodal models of transformers load too; their visual tokens are a list\nwithout places. "
            "patchlens models MODEL looks at one model.\n",
            style="dim",
        ),
    )


def _few(types: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(types) if len(types) <= most else f"{len(types)} types; patchlens models --json lists them"


def _survey_json(found: "Survey") -> dict[str, Any]:
    return {
        "model": found.name,
        "family": found.adapter.family,
        "model_type": found.model_type,
        "takes": list(found.adapter.modalities),
        "geometry": found.adapter.card.geometry,
        "notes": list(found.adapter.card.notes),
        "layers": found.n_layers,
        "d_model": found.d_model,
        "vocabulary": found.vocabulary,
        "positions": found.positions,
        "parameters": found.parameters,
        "language_parameters": found.language_parameters,
        "dtype": str(found.dtype).removeprefix("torch."),
        "weight_bytes": found.weight_bytes,
        "images": [
            {
                "height": image.size[0],
                "width": image.size[1],
                "visual_tokens": image.visual_tokens,
                "fillers": image.fillers,
                "capture_bytes": image.capture_bytes,
                "tiles": [tile.to_json() for tile in image.tiles],
            }
            for image in found.images
        ],
    }


def _draw_survey(found: "Survey") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    language = f", {_numeral(found.language_parameters)} in the language model" if found.images else ""
    for name, value in (
        ("family", f"{found.adapter.family} ({found.model_type})"),
        ("takes", " + ".join(found.adapter.modalities)),
        ("layers", f"{found.n_layers} blocks: layers 0 to {found.n_layers}"),
        ("width", f"{found.d_model:,}"),
        ("vocabulary", f"{found.vocabulary:,} tokens"),
        ("longest", "not said" if found.positions is None else f"{found.positions:,} tokens"),
        ("parameters", f"{_numeral(found.parameters)}{language}"),
        ("weights", f"{_bytes(found.weight_bytes)} in {str(found.dtype).removeprefix('torch.')}"),
    ):
        facts.add_row(name, Text(value))
    draw(Text(found.name, style="bold"), facts, Text())
    if found.images:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("image", "visual tokens", "capture, all layers"):
            table.add_column(heading, justify="left" if heading == "image" else "right", no_wrap=True)
        table.add_column("tiles")
        for image in found.images:
            tokens = "not known" if image.visual_tokens is None else f"{image.visual_tokens:,}"
            cost = "" if image.capture_bytes is None else _bytes(image.capture_bytes)
            table.add_row(f"{image.size[1]} × {image.size[0]}", tokens, cost, Text(_tiles(image)))
        draw(table)
    for note in found.adapter.card.notes:
        draw(Text(f"Note: {note}"))


def _tiles(image: "ImageCost") -> str:
    """Equal neighbours together: "12 × 16 × 16, thumbnail 16 × 16"."""
    parts: list[tuple[str, int]] = []
    for tile in image.tiles:
        what = f"{'thumbnail ' if tile.role == 'thumbnail' else ''}{tile.grid.rows} × {tile.grid.columns}"
        if parts and parts[-1][0] == what:
            parts[-1] = (what, parts[-1][1] + 1)
        else:
            parts.append((what, 1))
    fillers = f"; {image.fillers} fillers" if image.fillers else ""
    return ", ".join(what if count == 1 else f"{count} × ({what})" for what, count in parts) + fillers


def _numeral(count: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return str(count)


def _bytes(count: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
