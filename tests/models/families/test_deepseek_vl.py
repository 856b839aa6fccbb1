"""DeepSeek-VL with two resolutions, and where its processors put the image in the square."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance import test_families as conformance
from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer
from torch import nn

from patchlens.capture.capture import capture
from patchlens.models.framing import padded_square
from patchlens.models.loading import Model, load_model

SIZES = ((32, 32), (61, 100), (101, 64), (7, 9), (200, 30), (90, 80), (48, 50))


class Tiny:
    SIZES = SIZES


@contextlib.contextmanager
def _without(encoder: str, network: nn.Module) -> Iterator[None]:
    """Attention adds nothing, and one of the two encoders is not heard."""
    with conformance._quiet(network, Tiny):
        part = getattr(network.model.aligner, encoder)
        hook = part.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        try:
            yield
        finally:
            hook.remove()


class LowResolution(Tiny):
    quiet = staticmethod(partial(_without, "high_res_vision_proj"))


def build(folder: Path) -> None:
    from transformers import (
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
        DeepseekVLHybridProcessor,
        LlamaConfig,
        SamVisionConfig,
        SiglipVisionConfig,
    )
    from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
        DeepseekVLHybridImageProcessorPil,
    )

    words = tokenizer(named={"image_token": "<image_placeholder>"})
    sam = SamVisionConfig(
        hidden_size=32,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=4,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=48,
    )
    config = DeepseekVLHybridConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8),
        high_res_vision_config=sam,
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = DeepseekVLHybridProcessor(
        DeepseekVLHybridImageProcessorPil(
            size={"height": 32, "width": 32}, high_res_size={"height": 64, "width": 64}, min_size=6
        ),
        words,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )
    torch.manual_seed(0)
    save(folder, DeepseekVLHybridForConditionalGeneration(config), processor)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("deepseek_vl_hybrid")
    build(folder)
    return load_model(folder)


def test_it_is_served(hybrid: Model) -> None:
    assert hybrid.adapter.family == "deepseek_vl"


@pytest.mark.parametrize(
    ("test", "tiny"),
    [
        (conformance.test_the_tokens_of_every_size, Tiny),
        (conformance.test_positions_are_those_that_the_model_fills, Tiny),
        (conformance.test_geometry_by_experiment, LowResolution),
        (conformance.test_alone_as_in_a_batch, Tiny),
        (conformance.test_several_images, Tiny),
    ],
    ids=["tokens", "positions", "low", "batch", "several"],
)
def test_it_holds_what_every_family_must(test, tiny: type, hybrid: Model) -> None:
    test(hybrid, tiny)


@pytest.mark.parametrize("size", [(32, 32), (60, 100), (90, 80)])
def test_the_higher_resolution_lies_on_the_same_cells(hybrid: Model, size: tuple[int, int]) -> None:
    """Its convolutions spread what a cell holds, so the changed tokens are asked for their middle.

    That lies up to a cell down and right of the changed one: with stride 2 and one pixel of padding before, each of two
    convolutions begins half a pixel early.
    """
    pixels = conformance._noise(size)
    with _without("vision_proj", hybrid.network):
        before = capture(hybrid, pixels, layers=0)
        grid = before.tokens.layout[0][0].grid
        offsets = []
        for cell in range(len(grid)):
            top, left, bottom, right = (max(0, round(side)) for side in before.tokens.box(cell))
            changed = pixels.copy()
            changed[top:bottom, left:right] = (255, 0, 255)
            if (changed == pixels).all():
                continue  # padding
            moved = (capture(hybrid, changed, layers=0).at(0) - before.at(0)).square().sum(dim=1)
            shares = (moved / moved.sum()).reshape(grid.rows, grid.columns)
            row = float((shares.sum(dim=1) * torch.arange(grid.rows)).sum())
            column = float((shares.sum(dim=0) * torch.arange(grid.columns)).sum())
            offsets.append((row - cell // grid.columns, column - cell % grid.columns))
    assert len(offsets) >= 12
    assert np.abs(offsets).max() < 1
    assert (np.abs(np.mean(offsets, axis=0)) < 0.5).all()


@pytest.mark.parametrize("settings", [{}, {"do_resize": False}, {"do_pad": False}])
@pytest.mark.parametrize("size", [(32, 32), (60, 101), (101, 64), (7, 10), (200, 30)])
def test_the_square_is_laid_as_the_processor_lays_it(size: tuple[int, int], settings: dict[str, bool]) -> None:
    """A white image, of which each row and column of the output is full of white or has none."""
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

    processor = DeepseekVLImageProcessorPil(
        size={"height": 40, "width": 40}, min_size=6, do_normalize=False, **settings
    )
    (made,) = processor(np.full((*size, 3), 255, dtype=np.uint8), return_tensors="np")["pixel_values"]
    white = made.min(axis=0) > 0.99
    region, seen = padded_square(processor, size, 40)
    assert seen == white.shape
    for axis, (begin, end) in enumerate((region[::2], region[1::2])):
        inside = np.flatnonzero(white.any(axis=1 - axis))
        scale = seen[axis] / (end - begin)
        found = (-begin * scale, (size[axis] - begin) * scale)
        assert found == pytest.approx((inside[0], inside[-1] + 1))
