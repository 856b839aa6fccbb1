"""`python -m patchlens.picturebook.evaluate`: how well the model reads scenes that it has never seen.

Greedy captions of held-out scenes are compared, noun by noun, with what was drawn.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from patchlens.evaluation.captions import caption_scores
from patchlens.evaluation.intervals import Proportion
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.picturebook.command import run
from patchlens.picturebook.language import DESCRIBE
from patchlens.picturebook.scene import FIRST_SCENE, Scene, draw, scenes
from patchlens.picturebook.truth import caption_truth
from patchlens.picturebook.world import SIGN_WORDS
from patchlens.provenance import JSON
from patchlens.storage import write_json

__all__ = ["Score", "captions", "main", "record", "score"]


@dataclass(frozen=True)
class Score:
    """What greedy captions got right, over all scenes."""

    objects: Proportion
    """Things drawn whose noun the caption says (two of a kind must be said twice)."""
    said: Proportion
    """Things said that were drawn: the precision of the above."""
    colors: Proportion
    """Recolorable things whose color and noun the caption says side by side."""
    places: Proportion
    """Scenes whose place the caption says."""
    words: Proportion
    """Signs whose word the caption says."""
    false_words: Proportion
    """Scenes without a sign in which the caption reads one."""

    def to_json(self) -> dict[str, JSON]:
        """Hits, trials, share and interval of each."""
        return {
            name: {
                "hits": p.hits,
                "trials": p.trials,
                "share": round(p.share, 4),
                "interval": [round(end, 4) for end in p.interval],
            }
            for name, p in vars(self).items()
        }


def captions(model: Model, batch: list[Scene], prompt: str = DESCRIBE) -> list[str]:
    """Greedy captions of scenes, through the model's own processor and `generate`."""
    images = [draw(scene).image for scene in batch]
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = model.processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = model.processor(images=images, text=[text] * len(batch), return_tensors="pt").to(model.device)
    with torch.inference_mode():
        output = cast(Any, model.network).generate(**inputs, do_sample=False, max_new_tokens=80)
    return [
        str(text).strip()
        for text in model.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    ]


def score(pairs: list[tuple[Scene, str]]) -> Score:
    """Compare captions with the scenes they describe."""
    found = caption_scores([(caption_truth(scene), text) for scene, text in pairs], written=SIGN_WORDS)
    measures = {
        "objects": found.recall("things"),
        "said": found.precision("things"),
        "colors": found.recall("colors"),
        "places": found.recall("places"),
        "words": found.recall("written"),
        "false_words": found.misread,
    }
    return Score(**{name: Proportion(measure.hits, measure.trials) for name, measure in measures.items()})


def read_scenes(model: Model, first: int, count: int, size: int = 32) -> Iterator[tuple[Scene, str]]:
    """Scenes of consecutive seeds with their captions."""
    stream = scenes(first, count)
    while batch := list(islice(stream, size)):
        yield from zip(batch, captions(model, batch), strict=True)


def record(pairs: list[tuple[Scene, str]], first: int) -> dict[str, JSON]:
    """The figures with every caption that they come from."""
    return {
        "scenes": len(pairs),
        "first": first,
        "prompt": DESCRIBE,
        "figures": score(pairs).to_json(),
        "captions": {str(scene.seed): text for scene, text in pairs},
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the figures; `--out` writes them, with every caption, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m patchlens.picturebook.evaluate", description=__doc__)
    parser.add_argument("--model", default="picturebook", help="the embedded model, or a folder that training wrote")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--first", type=int, default=FIRST_SCENE["reads"], help="seed of the first scene")
    parser.add_argument("--out", type=Path, help="a JSON file for figures and captions")
    parser.add_argument("--show", type=int, default=5, help="captions to print")
    options = parser.parse_args(arguments)
    pairs = list(read_scenes(load_model(options.model), options.first, options.scenes))
    result = score(pairs)
    lines = [f"  {name.replace('_', ' '):12} {share}" for name, share in vars(result).items()]
    lines += [f"  scene {scene.seed}: {text}" for scene, text in pairs[: options.show]]
    sys.stdout.write(f"{options.scenes} held-out scenes from seed {options.first}\n" + "\n".join(lines) + "\n")
    if options.out:
        write_json(options.out, record(pairs, options.first))


if __name__ == "__main__":
    run(main)
