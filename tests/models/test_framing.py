from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from patchlens.errors import ImageError, ModelIncomplete
from patchlens.models.framing import centre_region, check_resized, framed_grid, padded_square, shown_region

SQUARE = {"height": 32, "width": 32}
CROP = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
SMALL_CROP = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE)
LARGE_CROP = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=SQUARE)
BOUNDED = CLIPImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}, crop_size=SQUARE)
NO_RESIZE = CLIPImageProcessorPil(do_resize=False, crop_size=SQUARE)
SQUASH = SiglipImageProcessorPil(size=SQUARE)
PAD = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 32}, crop_size=SQUARE)


@pytest.mark.parametrize(
    ("processor", "image_size", "region"),
    [
        (CROP, (64, 64), (0, 0, 64, 64)),
        (CROP, (64, 96), (0, 16, 64, 80)),
        (CROP, (96, 64), (16, 0, 80, 64)),
        (SMALL_CROP, (80, 80), (8, 8, 72, 72)),
        (LARGE_CROP, (48, 48), (-8, -8, 56, 56)),
        (NO_RESIZE, (40, 60), (4, 14, 36, 46)),
        (SQUASH, (64, 96), (0, 0, 64, 96)),
        (SQUASH, (200, 10), (0, 0, 200, 10)),
        (PAD, (64, 96), (-16, 0, 80, 96)),
        (PAD, (96, 64), (0, -16, 96, 80)),
    ],
)
def test_regions(processor: object, image_size: tuple[int, int], region: tuple[float, ...]) -> None:
    assert shown_region(processor, image_size, (32, 32)) == pytest.approx(region)


@pytest.mark.parametrize("processor", [CROP, SMALL_CROP, LARGE_CROP, BOUNDED, NO_RESIZE, SQUASH, PAD])
@pytest.mark.parametrize("image_size", [(64, 64), (64, 96), (96, 64), (61, 97), (130, 47)])
def test_regions_by_experiment(processor: object, image_size: tuple[int, int]) -> None:
    """An image whose red is its row and whose green is its column says itself which part came out."""
    height, width = image_size
    rows, columns = np.mgrid[0:height, 0:width]
    ramps = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    out = processor(images=Image.fromarray(ramps), do_normalize=False, do_rescale=False, return_tensors="np")
    seen = out["pixel_values"][0].astype(float)
    top, left, bottom, right = shown_region(processor, image_size, seen.shape[1:])
    y = top + (np.arange(32) + 0.5) * (bottom - top) / 32 - 0.5
    x = left + (np.arange(32) + 0.5) * (right - left) / 32 - 0.5
    # Resampling reaches two output pixels far, so it blurs what lies near the image's edges.
    near = 2 * max(bottom - top, right - left) / 32
    keep = (y > near)[:, None] & (y < height - 1 - near)[:, None] & (x > near) & (x < width - 1 - near)
    assert keep.sum() > 100
    assert np.abs(seen[0] - y[:, None])[keep].max() <= 1.0
    assert np.abs(seen[1] - x[None])[keep].max() <= 1.0


def test_a_size_that_the_settings_do_not_explain_is_an_error() -> None:
    with pytest.raises(ModelIncomplete, match="settings say 32 × 32"):
        shown_region(SQUASH, (64, 96), (48, 48))


def test_an_unknown_way_to_resize_is_an_error() -> None:
    strange = SimpleNamespace(do_resize=True, size={"max_pixels": 9}, do_center_crop=False)
    with pytest.raises(ModelIncomplete, match="max_pixels"):
        shown_region(strange, (64, 96), (48, 48))


def test_a_thread_like_image_is_refused_before_it_is_enlarged() -> None:
    check_resized(CROP, (64, 96))
    with pytest.raises(ImageError, match="too narrow"):
        check_resized(CROP, (2, 1_000_000))


def test_an_image_of_which_a_side_vanishes_is_refused() -> None:
    with pytest.raises(ImageError, match=r"3000 × 20 pixels.*shrink it to 64 × 0\."):
        centre_region((3000, 20), (3000, 20), (64, 0), (64, 0))
    for height, width, seen in ((20, 3000, "0 × 48"), (3000, 20, "48 × 0")):
        with pytest.raises(ImageError, match=f"{height} × {width} pixels.*shrink it to {seen}"):
            framed_grid(BOUNDED, (height, width), 8)
        with pytest.raises(ImageError, match=f"{height} × {width} pixels.*shrink it to {seen}"):
            padded_square(SimpleNamespace(do_resize=True, do_pad=True, min_size=0), (height, width), 48)


@pytest.mark.parametrize("processor", [CROP, SQUASH, PAD])
def test_the_grid_covers_what_is_shown(processor: object) -> None:
    grid = framed_grid(processor, (64, 96), 8)
    assert (grid.rows, grid.columns) == (4, 4)
    assert grid.region == shown_region(processor, (64, 96), (32, 32))
    with pytest.raises(ImageError, match="too narrow"):
        framed_grid(CROP, (2, 1_000_000), 8)
