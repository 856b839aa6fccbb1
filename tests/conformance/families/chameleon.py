"""A tiny Chameleon: the centre of 32 × 32 pixels, 4 × 4 codes of 256."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests.conformance.tiny import TEXT, save, tokenizer
from torch import nn

SIZES = ((32, 32), (32, 56), (56, 32), (20, 20), (100, 75), (33, 47))

NO_SITES = ("chameleon",)
"""Its encoder gives numbers of codes: there are no blocks of transformers in it and there is no projector."""

CODES = 256


def _name(code: int) -> str:
    """As in the real vocabulary: digits are written as letters, and Z ends the number."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def build(folder: Path) -> None:
    from transformers import (
        ChameleonConfig,
        ChameleonForConditionalGeneration,
        ChameleonProcessor,
        ChameleonVQVAEConfig,
    )
    from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

    words = tokenizer(
        [_name(code) for code in range(CODES)],
        named={
            "image_token": "<image>",
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "sep_token": "<reserved08706>",
        },
    )
    config = ChameleonConfig(
        **{name: value for name, value in TEXT.items() if name != "head_dim"},
        vocab_size=len(words),
        vocabulary_map=words.get_vocab(),
        vq_config=ChameleonVQVAEConfig(
            embed_dim=2,
            num_embeddings=CODES,
            latent_channels=32,
            resolution=32,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
        ),
    )
    processor = ChameleonProcessor(
        ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        words,
        image_seq_length=16,
    )
    save(folder, ChameleonForConditionalGeneration(config), processor)


@contextlib.contextmanager
def local(network: nn.Module) -> Iterator[None]:
    """Leave out of the encoder what mixes the whole image: attention, and normalising over it."""
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEEncoderAttnBlock

    encoder: Any = network.get_submodule("model.vqmodel")
    parts = [part for part in encoder.modules() if isinstance(part, nn.GroupNorm | ChameleonVQVAEEncoderAttnBlock)]
    # A copy, for the next step is done in place.
    handles = [part.register_forward_hook(lambda _, given, __: given[0].clone()) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def quiet(network: nn.Module) -> Iterator[None]:
    """Make each code depend on its own cell alone, and give codes that are near each other embeddings that are.

    Convolutions keep the taps that lie in the cell: the middle one, and of those that halve the first two of three.
    They cover a pixel more than they halve, so random weights look down and right of the cell; what a trained code
    stands for is its cell, since a decoder draws it there. A code is a number, and a changed one says nothing of how
    far its cell changed; hence the embeddings.
    """
    model: Any = network.get_submodule("model")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for part in model.vqmodel.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            taps = slice(0, 2) if part.stride == (2, 2) else slice(1, 2)
            kept = torch.zeros_like(part.weight)
            kept[..., taps, taps] = part.weight[..., taps, taps]
            part.weight.data = kept * (part.weight.norm() / kept.norm())
    codes = torch.tensor(sorted(model.vocabulary_mapping.img2bpe.items()))
    book = model.vqmodel.quantize.embedding.weight
    embeddings = nn.functional.pad(book, (0, model.embed_tokens.embedding_dim - book.shape[1]))
    model.embed_tokens.weight.data[codes[:, 1]] = embeddings[codes[:, 0]]
    try:
        with local(network):
            yield
    finally:
        network.load_state_dict(before)
