"""`patchlens demo`: the whole road on a model that needs no download, over pictures whose truth is known."""

import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, progress, say, say_json

if TYPE_CHECKING:
    from patchlens.evaluation.naming import Share
    from patchlens.evaluation.truth import PatchTruth, SceneTruth
    from patchlens.lenses.reading import Readings
    from patchlens.models.embedded import Embedded

__all__ = ["demo", "telling_patches"]

_LENSES = ("latent", "logit", "embedding")


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the page and the readings.")
    ] = Path("patchlens-demo"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="An embedded model; the one with the most pictures if left out."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the whole road on a small model that ships with patchlens.

    Three lenses read the model's visual tokens in the pictures that come with it. The first time, the bank that
    LatentLens searches is built and kept. Needs no network and no GPU.
    """
    began = time.monotonic()
    from patchlens.cli.road import MARKER, open_all, read_all, save
    from patchlens.evaluation.naming import name_shares
    from patchlens.evaluation.truth import open_truth
    from patchlens.models.loading import load_model
    from patchlens.storage import replacing_folder

    member = _member(model)
    pictures = _pictures(member)
    images = open_all(pictures)
    truths = {path.stem: open_truth(path.with_suffix(".json")) for path in pictures}
    with replacing_folder(out, overwrite=True, marker=MARKER) as folder, progress() as report:
        result = read_all(
            images,
            lambda: load_model(member.name),
            bank=member.name,
            lenses=_LENSES,
            layers="all",
            k=5,
            prompt=None,
            allow_other_model=False,
            report=report,
        )
        save(result.readings, folder, title=f"{member.name} through three lenses")
    assert result.bank is not None  # the latent lens is among those above
    where, bank = out.resolve(), result.bank.folder.resolve()
    shares = [
        share for share in name_shares(result.readings, truths) if share.what == "scene" and share.region == "all"
    ]
    seconds = time.monotonic() - began
    if json:
        say_json(
            {
                "page": str(where / "page.html"),
                "readings": str(where),
                "bank": str(bank),
                "seconds": round(seconds, 3),
                "shares": _by_lens(shares),
            }
        )
        return
    _tell(result.readings, truths, shares)
    say(f"  Page      {where / 'page.html'}")
    say(f"  Readings  {where}")
    say(f"  Bank      {bank}")
    say(f"\nDone in {seconds:.0f} s. Open the page in a browser: every patch, layer and lens is there.")
    say("With a model and pictures of your own:")
    say("  patchlens bank build --model MODEL --corpus SENTENCES.txt --out BANK")
    say("  patchlens read PICTURE.jpg --model MODEL --bank BANK --out READINGS")


def telling_patches(truth: "SceneTruth") -> "list[tuple[int, int, PatchTruth]]":
    """Choose patches to show by what is true of them alone: the middle of the largest thing, and of the largest sign.

    Returns:
        (row, column, truth) of one or two patches; none for an image without things.
    """
    groups: dict[frozenset[str], list[tuple[int, int]]] = defaultdict(list)
    for index, patch in enumerate(truth.patches):
        if patch.thing:
            groups[patch.thing].append(divmod(index, truth.columns))
    chosen = []
    for written in (False, True):
        fitting = [spots for spots in groups.values() if bool(truth.at(*spots[0]).word) is written]
        if fitting:
            row, column = _middle(max(fitting, key=len))
            chosen.append((row, column, truth.at(row, column)))
    return chosen


def _member(name: str | None) -> "Embedded":
    from patchlens.errors import ModelNotFound, OptionError
    from patchlens.models.embedded import embedded, embedded_names

    found = [member for each in embedded_names() if (member := embedded(each)) is not None]
    with_pictures = {member.name: member for member in found if _pictures(member)}
    if not with_pictures:
        raise ModelNotFound(
            "The demo needs an embedded model with example pictures, and none is installed. Install patchlens again."
        )
    if name is None:
        return max(with_pictures.values(), key=lambda member: len(_pictures(member)))
    if name not in with_pictures:
        raise OptionError(
            f"There is no embedded model called {name!r} with example pictures. Known: {', '.join(with_pictures)}. "
            "To read pictures of your own with another model, use 'patchlens read'."
        )
    return with_pictures[name]


def _pictures(member: "Embedded") -> list[Path]:
    """The example pictures whose truth is known."""
    if member.examples is None:
        return []
    return sorted(path for path in member.examples.glob("*.png") if path.with_suffix(".json").is_file())


def _middle(spots: list[tuple[int, int]]) -> tuple[int, int]:
    """The spot nearest to the mean of all; the upper left one of equals."""
    row, column = (sum(values) / len(spots) for values in zip(*spots, strict=True))
    return min(spots, key=lambda spot: ((spot[0] - row) ** 2 + (spot[1] - column) ** 2, spot))


def _by_lens(shares: "list[Share]") -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {name: {} for name in _LENSES}
    for share in shares:
        found[share.lens][str(share.layer)] = round(share.share, 6)
    return found


def _tell(readings: "Readings", truths: "dict[str, SceneTruth]", shares: "list[Share]") -> None:
    from rich.text import Text

    from patchlens.lenses.summary import printable
    from patchlens.views.terminal import table

    layers = readings.layers
    shown = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    draw(Text("The best words of each lens at a few patches and layers. The page has all of them.\n"))
    for name, truth in truths.items():
        if patches := telling_patches(truth):
            spots = [(row, column) for row, column, _ in patches]
            draw(table(readings.select(image=name), patches=spots, layers=shown, words=3))
            there = "; ".join(f"{row}, {column} shows: {_named(patch)}" for row, column, patch in patches)
            draw(Text(f"  In truth {printable(there)}.\n"))
    draw(Text("Visual tokens whose 5 words hold one that is true of the patch or its scene", style="bold"))
    draw(_shares_table(shares))


def _named(patch: "PatchTruth") -> str:
    if patch.word:
        return f"a sign that says “{', '.join(sorted(patch.word))}”"
    things = sorted(patch.thing - {word + ending for word in patch.thing for ending in ("s", "es")})
    if len(things) == len(patch.color) == 1:
        return f"{next(iter(patch.color))} {things[0]}"
    return " and ".join(things)


def _shares_table(shares: "list[Share]") -> Any:
    from rich import box
    from rich.table import Table

    from patchlens.lenses.summary import LENS_TITLES

    by_lens = _by_lens(shares)
    layers = sorted({share.layer for share in shares})
    shown = layers[:: -(-len(layers) // 10)]  # as many as 80 columns hold
    drawn = Table(box=box.SIMPLE_HEAD)
    drawn.add_column("layer", no_wrap=True)
    for layer in shown:
        drawn.add_column(str(layer), justify="right", no_wrap=True)
    for name, by_layer in by_lens.items():
        drawn.add_row(LENS_TITLES.get(name, name), *(f"{by_layer[str(layer)]:.0%}" for layer in shown))
    return drawn
