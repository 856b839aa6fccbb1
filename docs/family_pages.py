"""Pages of every family's tiny model over a square, a wide and a large picture, to look at where the patches lie.

    python docs/family_pages.py OUT [FAMILY …]

Each page is written by `patchlens read`; OUT/index.html links them. The models are those of the conformance suite:
their words mean nothing.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from patchlens.cli import main as patchlens  # noqa: E402
from patchlens.models.registry import families  # noqa: E402

SIZES = {"square": (300, 300), "wide": (150, 450), "large": (400, 700)}


def picture(height: int, width: int) -> Image.Image:
    """Colours that say where they are, a disc above, a block below, a border."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 110)], axis=-1)
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.55, height * 0.1, width * 0.9, height * 0.5), fill=(250, 220, 60))
    draw.rectangle((width * 0.1, height * 0.5, width * 0.45, height * 0.9), fill=(190, 60, 50))
    draw.rectangle((0, 0, width - 1, height - 1), outline=(255, 255, 255), width=3)
    return image


def main(out: Path, wanted: list[str]) -> None:
    """Write the pages of the wanted families, of all if none is named."""
    out.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        picture(*size).save(out / f"{name}.png")
    links = []
    for adapter in families():
        tiny = ROOT / "tests" / "conformance" / "families" / f"{adapter.family}.py"
        if "image" not in adapter.modalities or not tiny.exists() or (wanted and adapter.family not in wanted):
            continue
        made = import_module(f"tests.conformance.families.{adapter.family}")
        if (needs := getattr(made, "NEEDS", None)) and find_spec(needs) is None:
            sys.stderr.write(f"{adapter.family}: needs {needs}\n")
            continue
        folder = out / "models" / adapter.family
        folder.mkdir(parents=True, exist_ok=True)
        made.build(folder)
        layers = "0" if adapter.beside_sequence else "0,-1"
        files = [str(out / f"{name}.png") for name in SIZES]
        options = ["--model", str(folder), "--out", str(out / adapter.family), "--overwrite"]
        patchlens(["read", *files, *options, "--lens", "logit,embedding", "--layers", layers, "--json"])
        links.append(f'<li><a href="{adapter.family}/page.html">{adapter.family}</a>: {adapter.card.geometry}</li>')
    (out / "index.html").write_text("<!doctype html><meta charset=utf-8><ul>" + "".join(links) + "</ul>\n")
    sys.stdout.write(f"{out / 'index.html'}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python docs/family_pages.py OUT [FAMILY …]")
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
