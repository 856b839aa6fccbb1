"""What the tiny Qwen models (and GLM's text) share: patches of 4 pixels, cells of 2 × 2 of them, 4 to 64 cells."""

from typing import Any

from tests.conformance.tiny import TEXT, template, tokenizer, video_part

SIZES = ((32, 32), (24, 56), (120, 20), (10, 13), (300, 200), (50, 90))

PATCH = {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
"""For the config of a vision encoder."""


def text(**options: Any) -> dict[str, Any]:
    """For the config of a language model: `tiny.TEXT` with positions in time, height and width."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    return {**TEXT, "rope_parameters": rope | options.pop("rope", {}), **options}


def qwen_words() -> Any:
    return tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])


def qwen_ids(words: Any) -> dict[str, int]:
    """For the whole model's config."""
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: words.convert_tokens_to_ids(token) for name, token in names.items()}


def qwen_processor(words: Any, kind: str = "Qwen3VLProcessor") -> Any:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    cells = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, **cells)
    marks = "<|vision_start|><|{}_pad|><|vision_end|>"
    written = template(marks.format("image"), video=marks.format("video"))
    # Qwen 3 counts the pixels of all frames together, Qwen 2 those of one.
    limits = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64 * (8 if kind.startswith("Qwen3") else 1)}
    videos = "Qwen3VLVideoProcessor" if kind.startswith("Qwen3") else "Qwen2VLVideoProcessor"
    return getattr(transformers, kind)(images, words, video_part(videos, size=limits, **cells), chat_template=written)
