"""Scenes: which things stand where in which place, drawn to pixels with an exact mask.

A scene is a small record sampled from a seed; drawing it needs the extra `scenes` (resvg). Nothing here knows
language or models.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchlens.errors import MissingExtra
from patchlens.picturebook.lettering import LETTER_HEIGHT, lettering
from patchlens.picturebook.world import COLORS, PLACES, SIGN_WORDS, THINGS

__all__ = ["CANVAS", "FIRST_SCENE", "Drawing", "Scene", "SceneSign", "SceneThing", "draw", "sample_scene", "scenes"]

CANVAS = 144
"""Height and width of a scene in pixels."""

FIRST_SCENE = {
    "language": 0,
    "encoder": 1_000_000,
    "projector": 2_000_000,
    "reads": 10_000_000,
    "naming": 20_000_000,
    "examples": 30_000_000,
    "study": 40_000_000,
    "sentences": 1_000_000_000,
}
"""Seed of the first scene of each use: three trainings, how well the model reads, what the lenses name, the shipped
examples, studies, and single sentences. The blocks do not overlap, so whatever is measured was never trained on."""

_AIRBORNE = frozenset({"airplane", "balloon", "kite", "rocket"})
_SIZES = (34, 38, 42, 46, 50, 54, 58, 62, 66)
_MOST_OVERLAP = 0.10  # share of the smaller box that a neighbor may cover


@dataclass(frozen=True)
class SceneThing:
    """One thing in a scene."""

    name: str
    """Key of `world.THINGS`."""
    color: str
    """Its color here; for things of one color, their usual one."""
    size: int
    """Side of its square box in pixels."""
    x: int
    """Horizontal center in pixels from the left."""
    y: int
    """Vertical center in pixels from the top."""
    flipped: bool
    """Whether it faces left."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in pixels."""
        top, left = self.y - self.size // 2, self.x - self.size // 2
        return top, left, top + self.size, left + self.size


@dataclass(frozen=True)
class SceneSign:
    """A sign with a written word."""

    word: str
    """Key of `world.SIGN_WORDS`."""
    unit: float
    """Pixels per unit of the lettering grid; letters are 6 units high."""
    x: int
    """Horizontal center in pixels from the left."""
    y: int
    """Vertical center in pixels from the top."""

    @property
    def width(self) -> int:
        """Width of the board in pixels."""
        return round((lettering(self.word)[1] + 5) * self.unit)

    @property
    def height(self) -> int:
        """Height of board and post in pixels."""
        return round((LETTER_HEIGHT + 11) * self.unit)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in pixels."""
        top, left = self.y - self.height // 2, self.x - self.width // 2
        return top, left, top + self.height, left + self.width


@dataclass(frozen=True)
class Scene:
    """A place with one to four things, and perhaps a sign."""

    seed: int
    place: str
    things: tuple[SceneThing, ...]
    """From the back to the front."""
    sign: SceneSign | None

    @property
    def left_to_right(self) -> tuple[SceneThing | SceneSign, ...]:
        """All elements by their horizontal center."""
        elements: list[SceneThing | SceneSign] = [*self.things]
        if self.sign is not None:
            elements.append(self.sign)
        return tuple(sorted(elements, key=lambda element: (element.x, element.y)))


@dataclass(frozen=True)
class Drawing:
    """A drawn scene."""

    pixels: NDArray[np.uint8]
    """[height, width, 3], RGB."""
    owner: NDArray[np.uint8]
    """[height, width]: 0 where the background shows, i for the i-th thing counted from one, and
    `len(scene.things) + 1` for the sign."""

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow image."""
        return Image.fromarray(self.pixels)


def sample_scene(seed: int) -> Scene:
    """The scene of a seed: the same on every machine and Python version.

    Args:
        seed: Any integer; `FIRST_SCENE` says which are used for what.
    """
    rng = random.Random(f"picturebook scene {seed}")
    place = rng.choice(tuple(PLACES))
    count = rng.choices((1, 2, 3, 4), weights=(2, 3, 3, 2))[0]
    names = tuple(THINGS)
    weights = [0.6 if THINGS[name].rare else 1.0 for name in names]
    taken: list[tuple[int, int, int, int]] = []
    sign = _place_sign(rng, taken) if rng.random() < 0.35 else None
    things: list[SceneThing] = []
    while len(things) < count:
        name = rng.choices(names, weights=weights)[0]
        color = rng.choice(THINGS[name].colors)
        if any(thing.name == name and thing.color == color for thing in things):
            continue
        thing = _place_thing(rng, name, color, taken)
        if thing is None:
            break
        things.append(thing)
    things.sort(key=lambda thing: thing.box[2])
    return Scene(seed, place, tuple(things), sign)


def scenes(first: int, count: int) -> Iterator[Scene]:
    """The scenes of `count` consecutive seeds."""
    return (sample_scene(seed) for seed in range(first, first + count))


def draw(scene: Scene, scale: int = 1) -> Drawing:
    """Draw a scene; integer arithmetic throughout, so the same pixels everywhere.

    Args:
        scene: What to draw.
        scale: How many times larger than the canvas; the model is trained on scale 1, people may like more.

    Raises:
        MissingExtra: resvg is not installed.
    """
    pixels = _background(scene.place, scale).copy()
    owner = np.zeros(pixels.shape[:2], np.uint8)
    if scene.sign is not None:  # behind the things, which never cover more than its rim
        sprite = _sign_sprite(scene.sign.word, scene.sign.unit, scale)
        _paste(pixels, owner, sprite, scene.sign.box, scale, len(scene.things) + 1)
    for number, thing in enumerate(scene.things, start=1):
        sprite = _sprite(thing.name, thing.color, thing.size * scale)
        _paste(pixels, owner, sprite[:, ::-1] if thing.flipped else sprite, thing.box, scale, number)
    return Drawing(pixels, owner)


def _place_thing(
    rng: random.Random, name: str, color: str, taken: list[tuple[int, int, int, int]]
) -> SceneThing | None:
    """Find room for a thing: first where such things usually are, then anywhere, then smaller."""
    size = rng.choice(_SIZES)
    for attempt in range(160):
        if attempt >= 80:
            size = _SIZES[0]
        half = size // 2
        x = rng.randint(half, CANVAS - (size - half))
        low, high = half, CANVAS - (size - half)
        if attempt % 80 < 40:
            middle = (low + high) // 2
            low, high = (low, middle) if name in _AIRBORNE else (middle, high)
        thing = SceneThing(name, color, size, x, rng.randint(low, high), rng.random() < 0.5)
        if _has_room(thing.box, taken):
            taken.append(thing.box)
            return thing
    return None


def _place_sign(rng: random.Random, taken: list[tuple[int, int, int, int]]) -> SceneSign:
    word = rng.choice(SIGN_WORDS)
    unit = rng.choice((1.7, 1.9, 2.1))
    shape = SceneSign(word, unit, 0, 0)
    x = rng.randint(shape.width // 2, CANVAS - (shape.width - shape.width // 2))
    y = rng.randint(shape.height // 2, CANVAS - (shape.height - shape.height // 2))
    sign = SceneSign(word, unit, x, y)
    taken.append(sign.box)
    return sign


def _has_room(box: tuple[int, int, int, int], taken: list[tuple[int, int, int, int]]) -> bool:
    area = (box[2] - box[0]) * (box[3] - box[1])
    for other in taken:
        height = min(box[2], other[2]) - max(box[0], other[0])
        width = min(box[3], other[3]) - max(box[1], other[1])
        smaller = min(area, (other[2] - other[0]) * (other[3] - other[1]))
        if height > 0 and width > 0 and height * width > _MOST_OVERLAP * smaller:
            return False
    return True


def _paste(
    pixels: NDArray[np.uint8],
    owner: NDArray[np.uint8],
    sprite: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    scale: int,
    number: int,
) -> None:
    """Blend an RGBA sprite over the picture and mark the pixels that it now owns (alpha of half or more)."""
    top, left, bottom, right = (end * scale for end in box)
    alpha = sprite[..., 3:].astype(np.uint16)
    under = pixels[top:bottom, left:right].astype(np.uint16)
    pixels[top:bottom, left:right] = (sprite[..., :3] * alpha + under * (255 - alpha) + 127) // 255
    owner[top:bottom, left:right][sprite[..., 3] >= 128] = number


def _rasterize(svg: str, height: int, width: int) -> NDArray[np.uint8]:
    """RGBA pixels of an SVG text."""
    try:
        import resvg_py
    except ImportError as error:
        raise MissingExtra(
            "Drawing picturebook scenes needs the SVG renderer resvg, which is not installed. "
            "Install it with: pip install 'patchlens[scenes]'"
        ) from error
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height))
    return np.asarray(Image.open(BytesIO(png)).convert("RGBA"))


@cache
def _drawing(folder: str, name: str) -> str:
    return (resources.files("patchlens.picturebook") / folder / f"{name}.svg").read_text("utf-8")


@cache
def _background(place: str, scale: int) -> NDArray[np.uint8]:
    return _rasterize(_drawing("places", place), CANVAS * scale, CANVAS * scale)[..., :3].copy()


@cache
def _sprite(name: str, color: str, size: int) -> NDArray[np.uint8]:
    """RGBA pixels [size, size, 4] of a thing in a color: its key colors replaced (see `objects/`)."""
    main = COLORS[color]
    keys = {"#ff00ff": main, "#cc00cc": _mix(main, "#000000", 0.25), "#ff99ff": _mix(main, "#ffffff", 0.4)}
    svg = re.sub("#ff00ff|#cc00cc|#ff99ff", lambda key: keys[key.group()], _drawing("objects", name))
    return _rasterize(svg, size, size)


@cache
def _sign_sprite(word: str, unit: float, scale: int) -> NDArray[np.uint8]:
    """RGBA pixels of a board on a post with the word in capitals."""
    shape = SceneSign(word, unit, 0, 0)
    letters, length = lettering(word)
    width, height, board = shape.width / unit, shape.height / unit, LETTER_HEIGHT + 5
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {shape.width} {shape.height}">'
        f'<g transform="scale({unit})" stroke="#2b2b3a" stroke-linecap="round" stroke-linejoin="round">'
        f'<rect x="{width / 2 - 1.2}" y="{board - 1}" width="2.4" height="{height - board + 1}" '
        f'fill="#8a6a45" stroke-width="0.8"/>'
        f'<rect x="0.7" y="0.7" width="{width - 1.4}" height="{board - 1.4}" rx="1.6" '
        f'fill="#fffdf2" stroke-width="1.4"/>'
        f'<g transform="translate({(width - length) / 2} 2.5)" stroke-width="1">{letters}</g></g></svg>'
    )
    return _rasterize(svg, shape.height * scale, shape.width * scale)


def _mix(color: str, other: str, share: float) -> str:
    """A color moved towards another by a share in [0, 1]; both as #rrggbb."""
    parts = zip(bytes.fromhex(color[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + bytes(round(a + (b - a) * share) for a, b in parts).hex()
