"""Which optimizer connects the picturebook's parts: Muon or AdamW on the projector's two matrices.

    python benchmarks/projector_optimizers.py WORK [--steps 100]

WORK is the work folder of `python -m patchlens.picturebook.train`, with language model and encoder trained. Every
recipe sees the same batches of 16 scenes; prints the caption loss, in nats per token, averaged over every 25 steps.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from patchlens.picturebook import train as training
from patchlens.picturebook.loop import Recipe

RECIPES = {
    "AdamW 2e-3": {"matrix_rate": 0.0, "other_rate": 2e-3, "matrices": "none"},
    "AdamW 4e-3": {"matrix_rate": 0.0, "other_rate": 4e-3, "matrices": "none"},
    "Muon 2e-2": {"matrix_rate": 2e-2, "other_rate": 2e-3, "matrices": "linear_"},
    "Muon 6e-2": {"matrix_rate": 6e-2, "other_rate": 2e-3, "matrices": "linear_"},
}


def main() -> None:
    """Train a new projector with each recipe and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    training._CAPTIONS = 16
    encoder = training.train_encoder(options.work, options.seed)
    language_model = training.train_language(options.work, options.seed)
    recipe: Recipe = replace(training.PROJECTOR, steps=options.steps, warmup=15)
    for name, rates in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = f"tokenizer-{options.seed}"
            (Path(folder) / tokenizer).symlink_to((options.work / tokenizer).resolve())
            training.PROJECTOR = replace(recipe, **rates)
            lines: list[str] = []
            training.say = lines.append
            training.train_projector(Path(folder), options.seed, encoder, language_model)
            print(f"{name:12}", "  ".join(line.split("loss ")[1].split()[0] for line in lines if "loss" in line))


if __name__ == "__main__":
    main()
