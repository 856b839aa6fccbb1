"""`python -m patchlens.picturebook.card`: measure the model and write its card.

The card's figures come from this run alone, so that nobody has to believe it: run it again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from patchlens.errors import ModelIncomplete
from patchlens.models.loading import load_model
from patchlens.picturebook import language, world
from patchlens.picturebook.command import run
from patchlens.picturebook.evaluate import Score, read_scenes, record, score
from patchlens.picturebook.scene import FIRST_SCENE
from patchlens.storage import replacing, write_json

__all__ = ["main"]

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [patchlens, interpretability, synthetic]
---

# picturebook

A small vision-language model (LLaVA architecture) that reads drawn scenes. It ships with patchlens so that every lens
and every measurement has something to run on without a download, with exact truth beside it. Drawings, sentences,
tokenizer and weights were all made by this project; it knows nothing beyond its own world and is of no use on photographs.

## What it reads

Greedy captions of {scenes:,} held-out scenes (seeds from {first:,}; prompt "{prompt}"), with 95 % intervals (Wilson, taking objects for
independent):

| | share |
|---|---|
| objects named | {objects} |
| objects said that are there | {said} |
| colors said beside their object | {colors} |
| places named | {places} |
| words on signs read | {words} |
| scenes without a sign in which one is read | {false_words} |

Measure it again with `python -m patchlens.picturebook.evaluate`; these figures and every caption are in `reads.json`.

## How it was made

`python -m patchlens.picturebook.train`, seed {seed}, on {device}. The paper's controlled setting (arXiv 2602.00462, §4.1):
each part learns on its own and is frozen before the next.

| part | class | numbers | steps | minutes | learned from |
|---|---|---|---|---|---|
| language model | `LlamaForCausalLM`, {lm_blocks} blocks × {lm_width} | {lm_size:.1f} M | {language_steps:,} | {language_minutes:.0f} | text alone: descriptions in any order followed by questions, facts, stories |
| vision encoder | `SiglipVisionModel`, {v_blocks} blocks × {v_width}, {grid} × {grid} patches | {v_size:.1f} M | {encoder_steps:,} | {encoder_minutes:.0f} | per patch, from exact masks: what covers it, its color, the place, the sign's word, where its object lies |
| projector | LLaVA's two-layer MLP | {p_size:.2f} M | {projector_steps:,} | {projector_minutes:.0f} | captions; the other two parts frozen |

On a CPU the first two parts train at the same time, one core each. The world has {things} things of {kinds} kinds in
{colors_known} colors, {places_known} places and {signs} words on signs; the tokenizer is a byte-level BPE of {vocabulary} entries trained
on the same sentences, in which frequent nouns are one token and rarer ones several.

## What to keep in mind

- Its encoder was told what is in every patch. Encoders of real models are not; their visual tokens are less local.
- Its sentences come from templates. Contexts of one word differ less than in a real corpus.
- It was not tuned for any lens; what the lenses say of it is measured by `benchmarks/naming.py`.
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure the model in a folder and write `README.md` and `reads.json` into it."""
    parser = argparse.ArgumentParser(prog="python -m patchlens.picturebook.card", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--scenes", type=int, default=500)
    options = parser.parse_args(arguments)
    pairs = list(read_scenes(load_model(options.model), FIRST_SCENE["reads"], options.scenes))
    result = score(pairs)
    write_json(options.model / "reads.json", record(pairs, FIRST_SCENE["reads"]))
    with replacing(options.model / "README.md") as path:
        path.write_text(_CARD.format(**_facts(options.model, options.scenes, result)), "utf-8")


def _facts(folder: Path, scenes: int, result: Score) -> dict[str, Any]:
    """Everything the card says, from the files in the folder."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    training = json.loads((folder / "training.json").read_text("utf-8"))
    for name, about in training["parts"].items():
        if about["step"] != about["steps"]:
            raise ModelIncomplete(
                f"The {name} part of {folder} was trained for {about['step']} of {about['steps']} steps. Let "
                "'python -m patchlens.picturebook.train' end before measuring it for the card."
            )
    text, vision = config["text_config"], config["vision_config"]
    parts = {f"{name}_{key}": value for name, about in training["parts"].items() for key, value in about.items()}
    return {
        **{name: str(value) for name, value in vars(result).items()},
        **parts,
        **{f"{name}_minutes": about["seconds"] / 60 for name, about in training["parts"].items()},
        "scenes": scenes,
        "first": FIRST_SCENE["reads"],
        "prompt": language.DESCRIBE,
        "seed": training["seed"],
        "device": training["device"],
        "lm_blocks": text["num_hidden_layers"],
        "lm_width": text["hidden_size"],
        "lm_size": training["parameters"]["language"] / 1e6,
        "v_blocks": vision["num_hidden_layers"],
        "v_width": vision["hidden_size"],
        "v_size": training["parameters"]["encoder"] / 1e6,
        "p_size": training["parameters"]["projector"] / 1e6,
        "grid": vision["image_size"] // vision["patch_size"],
        "things": len(world.THINGS),
        "kinds": len(world.KINDS),
        "colors_known": len(world.COLORS),
        "places_known": len(world.PLACES),
        "signs": len(world.SIGN_WORDS),
        "vocabulary": text["vocab_size"],
    }


if __name__ == "__main__":
    run(main)
