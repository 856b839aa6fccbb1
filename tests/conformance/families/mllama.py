"""A tiny Mllama: up to four tiles of 32 pixels, 4 × 4 visual tokens each; the second of three blocks looks at them."""

from pathlib import Path

import torch
from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((32, 32), (64, 64), (40, 120), (120, 40), (20, 24), (300, 200), (50, 60))

OWN_MASK = False  # its visual tokens are no positions of the sequence


def build(folder: Path) -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    words = tokenizer(["<|python_tag|>", "<|image|>"])
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    encoder = {"attention_heads" if name == "num_attention_heads" else name: value for name, value in VISION.items()}
    config = MllamaConfig(
        vision_config=MllamaVisionConfig(
            **encoder,
            num_global_layers=1,
            image_size=32,
            patch_size=8,
            intermediate_layers_indices=[0],
            vision_output_dim=64,
        ),
        text_config=MllamaTextConfig(**text, vocab_size=len(words), cross_attention_layers=[1]),
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    processor = MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4),
        words,
        chat_template=template("<|image|>"),
    )
    network = MllamaForConditionalGeneration(config)
    with torch.no_grad():  # gates begin closed, and nothing would reach the text
        for name, parameter in network.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.5)
    save(folder, network, processor)
