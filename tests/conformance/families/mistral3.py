"""A tiny Mistral 3: cells of 2 × 2 patches of 4 pixels, at most 64 pixels on the longest edge."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((32, 32), (24, 70), (130, 50), (5, 9), (200, 333), (61, 64))


def build(folder: Path) -> None:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    from patchlens.models.without_torchvision import processor_class

    words = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = Mistral3Config(
        vision_config=PixtralVisionConfig(**VISION, image_size=64, patch_size=4),
        text_config=MistralConfig(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    processor = processor_class("PixtralProcessor")(
        PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 4, "width": 4}),
        words,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=template("[IMG]"),
    )
    save(folder, Mistral3ForConditionalGeneration(config), processor)
