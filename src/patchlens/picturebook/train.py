"""`python -m patchlens.picturebook.train`: make the embedded model from nothing, seeded and resumable.

The paper's controlled setting (LatentLens §4.1): the language model learns from text alone and is frozen; the
vision encoder learns on its own and is frozen; then only the projector learns, by captioning. On a CPU the first two
run side by side, each on half of the cores.

    language    tokenizer and language model       documents of language.py
    encoder     vision encoder                     what is where, from the masks of scene.py
    projector   LLaVA's MLP between the two        captions
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)

from patchlens.picturebook import parts
from patchlens.picturebook.command import run
from patchlens.picturebook.language import caption_exchange, documents
from patchlens.picturebook.loop import Recipe, best_device, train
from patchlens.picturebook.scene import CANVAS, FIRST_SCENE, Scene, draw, scenes
from patchlens.picturebook.truth import patch_cover
from patchlens.picturebook.world import COLORS, PLACES, SIGN_WORDS, THINGS
from patchlens.provenance import JSON
from patchlens.storage import replacing, write_json

__all__ = ["main"]

LANGUAGE = Recipe("language", steps=1100, matrix_rate=4e-3, other_rate=3e-3, warmup=60)
_ROW = 256  # tokens in a training row
_ROWS = 24  # rows in a batch


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


# ---------------------------------------------------------------------------------------------------------------
# Language


def load_tokenizer(work: Path, seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer of this work folder; trained on first use."""
    folder = work / f"tokenizer-{seed}"
    if not (folder / "tokenizer.json").exists():
        say("language: trains the tokenizer")
        parts.train_tokenizer(seed).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _token_rows(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> NDArray[np.int16]:
    """Documents one after the other, cut into rows: [count, 2, row], token ids and whether each is an answer's.

    A document starts with the start token and ends with the end token, as a caption does in the whole model.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = np.zeros((count, 2, _ROW + 1), np.int16)
    stream = documents(seed, FIRST_SCENE["language"])
    for row in range(count):
        filled = 0
        while filled <= _ROW:
            ids, answers = [bos], [0]
            for text, answer in next(stream).parts:
                piece = tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += piece
                answers += [int(answer)] * len(piece)
            ids.append(eos)
            answers.append(answers[-1])
            room = min(len(ids), _ROW + 1 - filled)
            rows[row, 0, filled : filled + room] = ids[:room]
            rows[row, 1, filled : filled + room] = answers[:room]
            filled += room
    return rows


def train_language(work: Path, seed: int) -> LlamaForCausalLM:
    """Train the language model on text alone; answers, which need looking back, count three times."""
    tokenizer = load_tokenizer(work, seed)
    device = best_device()
    torch.manual_seed(seed)
    model = parts.new_language_model(tokenizer).to(device)
    cache = work / f"language-rows-{LANGUAGE.steps}-{seed}.npy"
    if not cache.exists():
        say("language: writes its training text")
        with replacing(cache) as path, path.open("wb") as file:
            np.save(file, _token_rows(tokenizer, LANGUAGE.steps * _ROWS, seed))
    rows = np.load(cache, mmap_mode="r")

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = torch.from_numpy(rows[step * _ROWS : (step + 1) * _ROWS].astype(np.int64)).to(device)
        ids, answers = batch[:, 0], batch[:, 1, 1:].float()
        with torch.autocast(device.type, torch.bfloat16):
            states = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            logits = model.lm_head(states)
        each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        each = each.view_as(answers)
        weight = 1 + 2 * answers
        figures = {"answers": (each * answers).sum().item() / max(answers.sum().item(), 1)}
        return (each * weight).sum() / weight.sum(), figures

    train(LANGUAGE, model, loss, work, say, seed=seed)
    return model


# ---------------------------------------------------------------------------------------------------------------
# Encoder


ENCODER = Recipe("encoder", steps=3200, matrix_rate=2e-3, other_rate=2e-3, warmup=80)
_PICTURES = 48  # scenes in a batch
_NAMES, _HUES, _PLACES = tuple(THINGS), tuple(COLORS), tuple(PLACES)
_SIGN, _NOTHING = len(_NAMES), len(_NAMES) + 1
_SEEN = 0.15  # share of a patch that something must cover for the patch to be asked about it


class PatchHeads(nn.Module):
    """What every patch is asked while the encoder learns; thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(_NAMES) + 2, len(_HUES), len(_PLACES), len(SIGN_WORDS), 3)
        self.head = nn.Linear(width, sum(self.sizes))

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """[..., width] to (what, color, place, word, extent) logits."""
        answers: tuple[Tensor, ...] = self.head(states).split(self.sizes, dim=-1)
        return answers


@dataclass(frozen=True)
class PatchTargets:
    """What is true of every patch of a batch of scenes."""

    pixels: Tensor
    """[scene, 3, height, width], scaled to [-1, 1] as the image processor does."""
    what: Tensor
    """[scene, patch, class]: share of the patch's pixels owned by each thing, a sign, or nothing."""
    color: Tensor
    """[scene, patch]: color of the thing that covers most of it, or -100."""
    place: Tensor
    """[scene, patch]: the place."""
    word: Tensor
    """[scene, patch]: the sign's word, or -100."""
    extent: Tensor
    """[scene, patch, 3]: center x, center y and size of the patch's thing in units of the canvas, or nan."""


def patch_targets(batch: list[Scene]) -> PatchTargets:
    """Draw scenes and say of every patch what its pixels belong to."""
    patches = parts.GRID * parts.GRID
    pixels = np.empty((len(batch), CANVAS, CANVAS, 3), np.uint8)
    what = np.zeros((len(batch), patches, len(_NAMES) + 2), np.float32)
    color = np.full((len(batch), patches), -100)
    word = np.full((len(batch), patches), -100)
    extent = np.full((len(batch), patches, 3), np.nan, np.float32)
    for number, scene in enumerate(batch):
        drawing = draw(scene)
        pixels[number] = drawing.pixels
        cover = patch_cover(drawing.owner, len(scene.things) + 2, parts.GRID)
        what[number, :, _NOTHING] = cover[0]
        for index, thing in enumerate(scene.things, start=1):
            what[number, :, _NAMES.index(thing.name)] += cover[index]
            mine = (cover[index] >= _SEEN) & (cover[index] == cover[1:].max(0))
            color[number, mine] = _HUES.index(thing.color)
            extent[number, mine] = np.array([thing.x, thing.y, thing.size]) / CANVAS
        if scene.sign:
            what[number, :, _SIGN] = cover[-1]
            word[number, cover[-1] >= _SEEN] = SIGN_WORDS.index(scene.sign.word)
    place = np.array([[_PLACES.index(scene.place)] * patches for scene in batch])
    rest = (torch.from_numpy(array) for array in (what, color, place, word, extent))
    return PatchTargets(scaled_pixels(pixels), *rest)


def scaled_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """[scene, height, width, 3] to [scene, 3, height, width] in [-1, 1], as the image processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_encoder(work: Path, seed: int) -> SiglipVisionModel:
    """Train the vision encoder to say of every patch what covers it, its color, the place and the sign's word."""
    device = best_device()
    torch.manual_seed(seed + 1)
    encoder = parts.new_encoder().to(device)
    module = nn.ModuleDict({"encoder": encoder, "heads": PatchHeads(encoder.config.hidden_size).to(device)})

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        first = FIRST_SCENE["encoder"] + step * _PICTURES
        truth = patch_targets(list(scenes(first, _PICTURES)))
        with torch.autocast(device.type, torch.bfloat16):
            states = encoder(pixel_values=truth.pixels.to(device)).last_hidden_state
            answers = module["heads"](states)
        what, color, place, word, extent = (answer.float() for answer in answers)
        truth_what, truth_extent = truth.what.to(device), truth.extent.to(device)
        on_thing = (truth_what[..., :_SIGN].sum(-1) >= _SEEN).float()
        each = -(truth_what * what.log_softmax(-1)).sum(-1)
        importance = 0.15 + on_thing + (truth_what[..., _SIGN] > 0)
        losses = (
            (each * importance).sum() / importance.sum(),
            0.5 * F.cross_entropy(color.flatten(0, 1), truth.color.to(device).flatten(), ignore_index=-100),
            0.2 * F.cross_entropy(place.flatten(0, 1), truth.place.to(device).flatten()),
            0.5 * F.cross_entropy(word.flatten(0, 1), truth.word.to(device).flatten(), ignore_index=-100),
            (extent - truth_extent).nan_to_num().abs().sum() / on_thing.sum().clamp(min=1),
        )
        shown = truth_what[..., :_SIGN].amax(-1) > 0.5
        right = (what.argmax(-1) == truth_what.argmax(-1))[shown].float().mean().item()
        on_sign = truth.word.to(device) >= 0
        read = (word.argmax(-1) == truth.word.to(device))[on_sign].float().mean().nan_to_num(0.0).item()
        return torch.stack(losses).sum(), {"things": right, "words": read}

    train(ENCODER, module, loss, work, say, seed=seed)
    return encoder


# ---------------------------------------------------------------------------------------------------------------
# Projector


PROJECTOR = Recipe("projector", steps=1300, matrix_rate=2e-2, other_rate=2e-3, warmup=40, decay=0.8, matrices="linear_")
_CAPTIONS = 32  # scenes in a batch


def train_projector(
    work: Path, seed: int, encoder: SiglipVisionModel, language_model: LlamaForCausalLM
) -> LlavaForConditionalGeneration:
    """Join the two frozen parts and train the projector between them by captioning."""
    tokenizer = load_tokenizer(work, seed)
    device = best_device()
    torch.manual_seed(seed + 2)
    model = parts.assemble(encoder, language_model, tokenizer).to(device)
    parts.freeze(model)
    model.model.multi_modal_projector.requires_grad_(True)
    prefix = tokenizer(tokenizer.image_token)["input_ids"]
    visual = parts.GRID * parts.GRID

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = list(scenes(FIRST_SCENE["projector"] + step * _CAPTIONS, _CAPTIONS))
        ids, targets = _caption_batch(tokenizer, batch, random.Random(f"captions {seed} {step}"))
        ids, targets = ids.to(device), targets.to(device)
        pixels = scaled_pixels(np.stack([draw(scene).pixels for scene in batch])).to(device)
        embed = model.model.language_model.embed_tokens
        with torch.autocast(device.type, torch.bfloat16):
            tokens = torch.stack(model.model.get_image_features(pixels).pooler_output)
            start = embed(torch.tensor(prefix[:1], device=device)).expand(len(batch), 1, -1)
            states = torch.cat([start, tokens.to(start.dtype), embed(ids)], dim=1)
            outputs = model.model.language_model(inputs_embeds=states, use_cache=False).last_hidden_state
            logits = model.lm_head(outputs[:, visual + 1 :])
        value = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        return value, {}

    train(PROJECTOR, model, loss, work, say, seed=seed)
    return model


def _caption_batch(tokenizer: PreTrainedTokenizerFast, batch: list[Scene], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Token ids after the image, right-padded, and the same as targets with everything but the answer at -100."""
    rows = []
    detailed = rng.random() < 0.2  # a whole batch is of one length, so that little of it is padding
    for scene in batch:
        exchange = caption_exchange(scene, rng, detailed=detailed)
        asked = tokenizer(f"\n{exchange.request}\n", add_special_tokens=False)["input_ids"]
        answer = tokenizer(exchange.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((asked, answer))
    length = max(len(asked) + len(answer) for asked, answer in rows)
    ids = torch.full((len(batch), length), tokenizer.pad_token_id)
    targets = torch.full((len(batch), length), -100)
    for row, (asked, answer) in enumerate(rows):
        ids[row, : len(asked) + len(answer)] = torch.tensor(asked + answer)
        targets[row, len(asked) : len(asked) + len(answer)] = torch.tensor(answer)
    return ids, targets


# ---------------------------------------------------------------------------------------------------------------
# The command


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, then write the model folder."""
    parser = argparse.ArgumentParser(prog="python -m patchlens.picturebook.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picturebook"), help="checkpoints; a second run goes on")
    parser.add_argument("--out", type=Path, default=Path("runs/picturebook/model"), help="the finished model folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("language", "encoder"), help="train one part and stop")
    options = parser.parse_args(arguments)
    if options.only:
        {"language": train_language, "encoder": train_encoder}[options.only](options.work, options.seed)
        return
    if best_device().type == "cpu":
        _side_by_side(options.work, options.seed)
    language_model = train_language(options.work, options.seed)
    encoder = train_encoder(options.work, options.seed)
    model = train_projector(options.work, options.seed, encoder, language_model)
    parts.save(model.cpu(), load_tokenizer(options.work, options.seed), options.out)
    write_json(options.out / "training.json", _training_record(model, options.work, options.seed))
    say(f"done: {options.out}; measure it with: python -m patchlens.picturebook.card --model {options.out}")


def _training_record(model: LlavaForConditionalGeneration, work: Path, seed: int) -> dict[str, JSON]:
    """How the model was made, for its card."""
    done: dict[str, JSON] = {
        recipe.name: json.loads((work / f"{recipe.name}.json").read_text("utf-8"))
        for recipe in (LANGUAGE, ENCODER, PROJECTOR)
    }
    inner = model.model
    return {
        "seed": seed,
        "device": "a GPU" if best_device().type == "cuda" else f"{os.cpu_count()} CPU cores",
        "parts": done,
        "parameters": {
            "language": parts.count_parameters(inner.language_model),
            "encoder": parts.count_parameters(inner.vision_tower),
            "projector": parts.count_parameters(inner.multi_modal_projector),
        },
    }


def _side_by_side(work: Path, seed: int) -> None:
    """Train language model and encoder at the same time in processes of their own, each on half of the cores.

    Small models use one core each far better than they share two.
    """
    load_tokenizer(work, seed)
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    command = [sys.executable, "-m", "patchlens.picturebook.train", "--work", str(work), "--seed", str(seed)]
    children = [subprocess.Popen([*command, "--only", part], env=environment) for part in ("language", "encoder")]
    try:
        codes = [child.wait() for child in children]
    finally:
        for child in children:
            child.terminate()
    if any(codes):
        raise SystemExit(next(code for code in codes if code))


if __name__ == "__main__":
    run(main)
