"""picturebook: a small vision-language model that ships with patchlens, and the world it was trained on.

It is an ordinary Hugging Face folder and takes the road of every other model; this file only says where it lies.

    world.py      what exists: things, places, colors, words on signs
    objects/      one drawing per thing, in key colors
    places/       one background per place
    lettering.py  letters for the signs
    scene.py      scenes: sampled from a seed, drawn with an exact mask
    language.py   what is said of scenes and things
    lexicon.py    noun, verb or what else each of its words is
    truth.py      what is true of a scene, patch by patch and as a whole
    held_out.py   scenes for studies, with all that is known of them
    parts.py      tokenizer, vision encoder, projector, language model
    loop.py       the resumable training loop
    train.py      the three trainings, one command
    evaluate.py   how well the model reads held-out scenes
    command.py    how these commands end
    card.py       the model's card, from figures measured on the spot
    examples.py   draws the scenes that ship with the package
    weights/      the trained model, with its card
    examples/     three held-out scenes with their truth
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from patchlens.models.embedded import Embedded

if TYPE_CHECKING:
    from patchlens.evaluation.truth import Known

__all__ = ["EMBEDDED", "corpus"]

_HERE = Path(__file__).parent
_SENTENCES = 40_000


def corpus() -> Iterator[str]:
    """The sentences of the embedded bank: another seed than the training's, though short facts come in both."""
    from patchlens.picturebook.language import sentences

    return itertools.islice(sentences(seed=1), _SENTENCES)


def _held_out(count: int, first: int = 0) -> "Iterator[Known]":
    from patchlens.picturebook.held_out import held_out

    return held_out(count, first)


def _lexicon() -> Mapping[str, str]:
    from patchlens.picturebook.lexicon import lexicon

    return lexicon()


EMBEDDED = Embedded(
    name="picturebook",
    folder=_HERE / "weights",
    corpus=corpus,
    bank={"layers": [1, 2, 3, 4, 5, 6, 7], "per_token": 50, "choose": "reservoir", "seed": 0},
    summary="a small LLaVA trained by this project on drawn scenes; 12 × 12 visual tokens, 8 blocks",
    examples=_HERE / "examples",
    held_out=_held_out,
    lexicon=_lexicon,
)
