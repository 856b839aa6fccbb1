"""A tiny PaliGemma 2, or 1: 32 pixels stretched over the image, 4 × 4 visual tokens."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, tokenizer

SIZES = ((32, 32), (40, 100), (100, 40), (16, 12), (200, 150))


def build(folder: Path, generation: int = 2) -> None:
    from transformers import (
        Gemma2Config,
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer(named={"image_token": "<image>"})
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    image_processor.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor, words)  # it adds 1152 words for boxes and outlines
    if generation == 1:
        text_config = GemmaConfig(**TEXT, vocab_size=len(words))
    else:  # with a bound so low that a lens which applied it would be seen: the whole model does not
        text_config = Gemma2Config(**TEXT, vocab_size=len(words), final_logit_softcapping=2.0)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=text_config,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    save(folder, PaliGemmaForConditionalGeneration(config), processor)
