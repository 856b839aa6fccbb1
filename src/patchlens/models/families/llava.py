"""LLaVA: a vision encoder, an MLP projector and a causal language model; one square grid of visual tokens.

CLIP and DINOv2 put a class token first, which `vision_feature_select_strategy="default"` drops; SigLIP has
none and uses "full". Encoders with other tokens on image positions (registers, Pixtral's rows) are refused.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from patchlens.errors import ModelIncomplete, PromptError, UnknownFamily
from patchlens.inputs.image import ImageInput
from patchlens.models.adapter import Adapter, Prepared
from patchlens.models.families.text import adds_special_tokens, check_length, encoded
from patchlens.models.framing import check_resized, shown_region
from patchlens.models.patch_grid import PatchGrid

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["LlavaAdapter"]

_ENCODERS = ("clip_vision_model", "dinov2", "siglip_vision_model")


class LlavaAdapter(Adapter):
    """LLaVA 1.5 and every model saved in its architecture."""

    family: ClassVar[str] = "llava"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")

    def prepare(self, model: "patchlens.models.model.Model", image: ImageInput | None, prompt: str) -> Prepared:
        """Run the processor and find the visual tokens; see `Adapter.prepare`."""
        text = _as_text(model, prompt, with_image=image is not None)
        inputs = encoded(model, text) if image is None else _processed(model, image, text)
        token_ids = inputs["input_ids"][0]
        grid = None if image is None else _grid(model, image, inputs["pixel_values"])
        visual_positions = torch.nonzero(token_ids == _config(model).image_token_id)[:, 0]
        _check_count(model, image, len(visual_positions), grid)
        return Prepared(inputs, token_ids, visual_positions, grid)


def _as_text(model: "patchlens.models.model.Model", prompt: str, *, with_image: bool) -> str:
    placeholder = model.processor.image_token
    given = prompt.count(placeholder)
    if given > int(with_image):
        raise PromptError(
            f"The prompt for {model.name} holds the image placeholder '{placeholder}' {given} times, but "
            f"{'one image' if with_image else 'no image'} was given. Leave the placeholder out; it is added "
            "for you."
        )
    if given:
        return prompt
    if model.processor.chat_template is None:
        return f"{placeholder}\n{prompt}" if with_image else prompt
    content: list[dict[str, str]] = [{"type": "image"}] if with_image else []
    turn = {"role": "user", "content": [*content, {"type": "text", "text": prompt}]}
    text: str = model.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return text


def _processed(model: "patchlens.models.model.Model", image: ImageInput, text: str) -> dict[str, Tensor]:
    check_resized(model.processor.image_processor, image.size)
    made = model.processor(
        images=image.pixels,
        text=text,
        return_tensors="pt",
        add_special_tokens=adds_special_tokens(model, text),
    )
    inputs = {name: made[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    check_length(model, inputs["input_ids"].shape[1])
    return inputs


def _grid(model: "patchlens.models.model.Model", image: ImageInput, pixels: Tensor) -> PatchGrid:
    vision = _config(model).vision_config
    if vision.model_type not in _ENCODERS:
        raise UnknownFamily(
            f"{model.name} is a LLaVA model with a vision encoder of type '{vision.model_type}'. patchlens "
            f"knows the layout of {', '.join(_ENCODERS)}; choose a model with one of these."
        )
    seen = (pixels.shape[-2], pixels.shape[-1])
    shown = shown_region(model.processor.image_processor, image.size, seen)
    return PatchGrid.of_patches(image.size, shown, seen, vision.patch_size)


def _config(model: "patchlens.models.model.Model") -> Any:
    return model.network.config


def _check_count(
    model: "patchlens.models.model.Model", image: ImageInput | None, found: int, grid: PatchGrid | None
) -> None:
    expected = 0 if grid is None else len(grid)
    if found != expected:
        shape = (
            "no image" if grid is None else f"{grid.rows} × {grid.columns} = {expected} for '{image and image.name}'"
        )
        raise ModelIncomplete(
            f"The processor of {model.name} made {found} visual tokens, but its grid is {shape}. Its "
            "patch_size, num_additional_image_tokens and vision_feature_select_strategy must fit the "
            "model's vision encoder; correct processor_config.json."
        )
