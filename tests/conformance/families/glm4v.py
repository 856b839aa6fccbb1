"""A tiny GLM-4.1V, and tiny models of the types that share its layout.

Patches have 8 pixels: the encoder scales each to one length before anything else, so what resizing smears over the edge
of a smaller one would count as much as its own pixels.
"""

from pathlib import Path
from typing import Any

from tests.conformance.merged import text
from tests.conformance.tiny import save, template, tokenizer, video_part

__all__ = ["SIZES", "build", "build_46v", "build_moe", "build_ocr"]

SIZES = ((64, 64), (48, 112), (120, 40), (14, 22), (600, 400), (100, 180))

ENCODER: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
MARKS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


def build(folder: Path) -> None:
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor

    _build(folder, Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor)


def build_moe(folder: Path) -> None:
    from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, Glm4vProcessor

    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    options = {**experts, "rope": {"partial_rotary_factor": 1.0}}
    _build(folder, Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, Glm4vProcessor, **options)


def build_46v(folder: Path) -> None:
    from transformers import Glm46VConfig, Glm46VForConditionalGeneration, Glm46VProcessor

    _build(folder, Glm46VConfig, Glm46VForConditionalGeneration, Glm46VProcessor)


def build_ocr(folder: Path) -> None:
    from transformers import Glm46VProcessor, GlmOcrConfig, GlmOcrForConditionalGeneration

    _build(folder, GlmOcrConfig, GlmOcrForConditionalGeneration, Glm46VProcessor)


def _build(folder: Path, config_class: Any, network_class: Any, processor_class: Any, **options: Any) -> None:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
    from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

    words = tokenizer(MARKS.values())
    ids = {name: words.convert_tokens_to_ids(token) for name, token in MARKS.items()}
    config = config_class(vision_config=ENCODER, text_config=text(vocab_size=len(words), **options), **ids)
    pixels = Glm46VImageProcessorPil if "46V" in processor_class.__name__ else Glm4vImageProcessorPil
    processor = processor_class(
        pixels(
            size={"shortest_edge": 2 * 32 * 32, "longest_edge": 2 * 128 * 128},  # of two frames
            patch_size=8,
            temporal_patch_size=2,
            merge_size=2,
        ),
        words,
        video_part("Glm4vVideoProcessor"),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )
    save(folder, network_class(config), processor)
