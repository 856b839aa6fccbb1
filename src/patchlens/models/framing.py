"""Which part of the original image an image processor shows to the model: read from its settings.

It covers what transformers' processors do to one image: pad to a square, resize, crop or pad the centre. It
does not run the processor; anything these steps do not explain is an error.
"""

from typing import Any

from patchlens.errors import ImageError, ModelIncomplete
from patchlens.inputs.image import MAX_PIXELS
from patchlens.models.patch_grid import PatchGrid

__all__ = [
    "centre_region",
    "check_resized",
    "framed_grid",
    "image_setting",
    "output_size",
    "padded_square",
    "shown_region",
]

_Size = tuple[int, int]  # height, width


def framed_grid(image_processor: Any, size: tuple[int, int], cell: int) -> PatchGrid:
    """Where the visual tokens lie that cover all of the processor's output, row by row.

    Args:
        image_processor: The model's; its settings are read.
        size: (height, width) of the original upright image, in pixels.
        cell: Side of one visual token, in pixels of the output.

    Raises:
        ImageError: An image so narrow that resizing makes it enormous, or leaves nothing of a side.
        ModelIncomplete: The settings are of no known kind.
    """
    check_resized(image_processor, size)
    seen = output_size(image_processor, size)
    return PatchGrid.of_patches(size, shown_region(image_processor, size, seen), seen, cell)


def shown_region(
    image_processor: Any, image_size: tuple[int, int], seen: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Find the region of the original image that the processor's output shows.

    Args:
        image_processor: The model's; its settings are read.
        image_size: (height, width) of the original upright image, in pixels.
        seen: (height, width) of the pixels that the processor returned.

    Returns:
        (top, left, bottom, right) in original pixels: smaller than the image after a crop, larger after
        padding.

    Raises:
        ImageError: Resizing leaves nothing of a side.
        ModelIncomplete: The settings do not explain the size that came out.
    """
    padded = _padded(image_processor, image_size)
    resized = _resized(image_processor, padded)
    crops = bool(_setting(image_processor, "do_center_crop"))
    if not crops and resized != seen:
        raise ModelIncomplete(
            f"{type(image_processor).__name__} made {seen[0]} × {seen[1]} pixels of an image of "
            f"{image_size[0]} × {image_size[1]}, but its settings say {resized[0]} × {resized[1]}. Its "
            "patches cannot be placed on the image; report this processor."
        )
    return centre_region(image_size, padded, resized, seen)


def centre_region(image_size: _Size, padded: _Size, resized: _Size, seen: _Size) -> tuple[float, float, float, float]:
    """Find the region of the original image that is left when its sides are padded, resized and cropped in the centre.

    Args:
        image_size: (height, width) of the original image.
        padded: The same where nothing is padded before it is resized.
        resized: (height, width) after that.
        seen: (height, width) after cropping.

    Returns:
        (top, left, bottom, right) in original pixels.

    Raises:
        ImageError: Resizing leaves nothing of a side.

    Example:
        >>> centre_region((100, 200), (100, 200), (50, 100), (50, 50))
        (0.0, 50.0, 100.0, 150.0)
    """
    _check_sides(image_size, resized)
    sides = [_side(image_size[axis], padded[axis], resized[axis], seen[axis]) for axis in (0, 1)]
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def padded_square(
    image_processor: Any, image_size: tuple[int, int], longest: int
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Follow an image through a processor that fits its longest side and then pads to a square.

    Args:
        image_processor: The model's; its settings are read.
        image_size: (height, width) of the original upright image, in pixels.
        longest: What it resizes the longest side to.

    Returns:
        The region that the output shows, (top, left, bottom, right) in original pixels, larger than the image where it
        was padded; and the output's (height, width).

    Raises:
        ImageError: Resizing leaves nothing of a side.
    """
    resized = image_size
    if _setting(image_processor, "do_resize"):
        least, factor = image_processor.min_size, longest / max(image_size)
        resized = max(round(image_size[0] * factor), least), max(round(image_size[1] * factor), least)
    _check_sides(image_size, resized)
    seen = (max(resized), max(resized)) if _setting(image_processor, "do_pad") else resized
    region = []
    for original, fitted, side in zip(image_size, resized, seen, strict=True):
        scale = original / fitted
        begin = -((side - fitted) // 2) * scale
        region.append((begin, begin + side * scale))
    (top, bottom), (left, right) = region
    return (top, left, bottom, right), seen


def output_size(image_processor: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of the pixels that the processor will make of an image.

    Args:
        image_processor: The model's; its settings are read.
        image_size: (height, width) of the original upright image, in pixels.
    """
    if _setting(image_processor, "do_center_crop"):
        crop = dict(_setting(image_processor, "crop_size"))
        return int(crop["height"]), int(crop["width"])
    return _resized(image_processor, _padded(image_processor, image_size))


def image_setting(processor: Any, name: str) -> Any:
    """A setting as the processor hands it to its image processor: some processors have defaults that go before its own.

    Args:
        processor: The model's.
        name: Such as "crop_to_patches".
    """
    defaults = processor.valid_processor_kwargs._defaults.get("images_kwargs", {})
    return defaults[name] if name in defaults else _setting(processor.image_processor, name)


def check_resized(image_processor: Any, image_size: tuple[int, int]) -> None:
    """Refuse an image so narrow that resizing its shortest side would make the other one enormous.

    Args:
        image_processor: The model's.
        image_size: (height, width) of the original upright image, in pixels.

    Raises:
        ImageError: The resized image would have more than 100 million pixels.
    """
    height, width = _resized(image_processor, _padded(image_processor, image_size))
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"Preparing an image of {image_size[0]} × {image_size[1]} pixels: this model's processor would "
            f"enlarge it to {height} × {width}. It is too narrow; crop it to a usual shape first."
        )


def _check_sides(image_size: _Size, resized: _Size) -> None:
    if min(resized) < 1:
        raise ImageError(
            f"Preparing an image of {image_size[0]} × {image_size[1]} pixels: this model's processor would "
            f"shrink it to {resized[0]} × {resized[1]}. It is too narrow; crop it to a usual shape first."
        )


def _side(original: int, padded: int, resized: int, seen: int) -> tuple[float, float]:
    """Where one side of the output begins and ends in the original, through crop, resize and padding."""
    scale = padded / resized
    # Floor division also gives the centred padding of an image smaller than the crop: (5 - 8) // 2 = -2.
    cropped_away = (resized - seen) // 2
    padded_before = (padded - original) // 2
    begin = cropped_away * scale - padded_before
    return begin, begin + seen * scale


def _padded(image_processor: Any, size: _Size) -> _Size:
    # Only LLaVA's own processor pads before it resizes; `do_pad` elsewhere evens out a batch, and ours is of
    # one.
    if _setting(image_processor, "do_pad") and hasattr(image_processor, "pad_to_square"):
        return (max(size), max(size))
    return size


def _resized(image_processor: Any, size: _Size) -> _Size:
    if not _setting(image_processor, "do_resize"):
        return size
    wanted = dict(_setting(image_processor, "size") or {})
    if set(wanted) == {"height", "width"}:
        return wanted["height"], wanted["width"]
    if set(wanted) == {"shortest_edge"}:
        edge = wanted["shortest_edge"]
        short, long = sorted(size)
        new_long = int(edge * long / short)
        return (new_long, edge) if size[0] >= size[1] else (edge, new_long)
    if set(wanted) == {"shortest_edge", "longest_edge"}:
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = get_size_with_aspect_ratio(size, wanted["shortest_edge"], wanted["longest_edge"])
        return height, width
    raise ModelIncomplete(
        f"{type(image_processor).__name__} resizes by {wanted}, which patchlens cannot place on the image. "
        "It knows 'height' and 'width', 'shortest_edge', and 'shortest_edge' with 'longest_edge'; report "
        "this processor."
    )


def _setting(image_processor: Any, name: str) -> Any:
    return getattr(image_processor, name, None)
