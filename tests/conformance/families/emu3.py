"""A tiny Emu3: cells of 8 pixels, 16 to 64 of them, 256 codes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests.conformance.tiny import TEXT, save, template, tokenizer
from torch import nn

SIZES = ((32, 32), (32, 56), (120, 20), (10, 13), (300, 200), (50, 90))

NO_SITES = ("emu3",)
"""Its encoder gives numbers of codes: there are no blocks of transformers in it and there is no projector."""

CODES = 256


def build(folder: Path) -> None:
    from transformers import (
        Emu3Config,
        Emu3ForConditionalGeneration,
        Emu3ImageProcessor,
        Emu3Processor,
        Emu3TextConfig,
        Emu3VQVAEConfig,
    )

    words = tokenizer(
        ["<|extra_200|>", *(f"<|visual token {code:06d}|>" for code in range(CODES))],
        named={
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
    )
    words.backend_tokenizer.post_processor = None  # the published tokenizer begins nothing, the processor does
    config = Emu3Config(
        text_config=Emu3TextConfig(**TEXT, vocab_size=len(words)),
        vocabulary_map=words.get_vocab(),
        vq_config=Emu3VQVAEConfig(
            codebook_size=CODES,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
            hidden_size=32,
        ),
    )
    processor = Emu3Processor(
        Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64),
        words,
        chat_template=template("<image>"),
    )
    network = Emu3ForConditionalGeneration(config)
    save(folder, network, processor)
    _spread_codes(network)
    network.save_pretrained(folder)


def _spread_codes(network: Any) -> None:
    """Make the codes what the encoder finds for cells of random colours, as training would; random ones are far off."""
    encoder = network.model.vqmodel
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(1, 3, 16, 16, generator=generator)  # as many as there are codes
    grain = torch.randn(1, 3, 128, 128, generator=generator) / 4
    found: list[torch.Tensor] = []
    handle = encoder.quantize.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        encoder.encode(nn.functional.interpolate(colours, scale_factor=8) + grain, torch.tensor([[128, 128]]))
    handle.remove()
    encoder.quantize.embedding.weight.data = found[0][0, 0].flatten(1).T.contiguous()


@contextlib.contextmanager
def local(network: nn.Module) -> Iterator[None]:
    """Leave out of the encoder what mixes the whole image: attention, and normalising over it."""
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAEAttentionBlock

    encoder: Any = network.get_submodule("model.vqmodel.encoder")
    handles = []
    for part in encoder.modules():
        if isinstance(part, nn.GroupNorm):  # a copy, for the next step is done in place
            handles.append(part.register_forward_hook(lambda _, given, __: given[0].clone()))
        elif isinstance(part, Emu3VQVAEAttentionBlock):
            handles.append(part.register_forward_hook(lambda _, __, given: (torch.zeros_like(given[0]), None)))
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
    for part in model.vqmodel.encoder.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d) and part.kernel_size[-2:] == (3, 3):
            taps = slice(0, 2) if part.stride[-2:] == (2, 2) else slice(1, 2)
            kept = torch.zeros_like(part.weight)
            kept[..., taps, taps] = part.weight[..., taps, taps]
            part.weight.data = kept * (part.weight.norm() / kept.norm())
    try:
        with local(network):
            _spread_codes(network)
            codes = torch.tensor(sorted(model.vocabulary_mapping.img2bpe.items()))
            book = model.vqmodel.quantize.embedding.weight
            table = model.get_input_embeddings().weight
            table.data[codes[:, 1]] = nn.functional.pad(book, (0, table.shape[1] - book.shape[1]))[codes[:, 0]]
            yield
    finally:
        network.load_state_dict(before)
