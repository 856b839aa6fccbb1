"""Tiny random models of real classes, saved to disk and loaded back the way a person's model is."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; no test may reach for the network

SENTENCES = (
    "The small red car stands left of the old tree.",
    "A cat sleeps on the sofa, and the cats outside don't.",
    "The apple is a fruit; apples grow on trees in the garden.",
    "A yellow boat is in the harbor near the lighthouse.",
    "What stands behind the house? A tall, dark-green pine tree.",
    "In the park there is a dog, a ball and a blue kite.",
    "The sign says 'bread', so the baker's shop is open.",
    "Without the rain the strawberries would not have grown.",
)
"""What the test tokenizers are trained on, and a small corpus for tests that need one."""

ENCODERS = ("clip", "siglip", "dinov2")
LANGUAGE_MODELS = ("llama", "qwen2", "olmo2")

IMAGE_SIZE = 32
PATCH_SIZE = 8
"""Pixels: 4 × 4 visual tokens, unless a test asks for another size."""


@pytest.fixture(scope="session", autouse=True)
def _no_progress_bars() -> Iterator[None]:
    """`save_pretrained` draws a bar; loading must stay silent by itself, which tests/models checks."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def sentences() -> tuple[str, ...]:
    return SENTENCES


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A wide scene (96 × 64 pixels): sky, grass, a sun, a house; no two patches alike."""
    image = Image.new("RGB", (96, 64), (120, 180, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 40, 96, 64), fill=(70, 150, 60))
    draw.ellipse((72, 4, 90, 22), fill=(250, 220, 60))
    draw.rectangle((20, 24, 50, 52), fill=(190, 60, 50))
    draw.polygon([(16, 24), (35, 8), (54, 24)], fill=(90, 50, 40))
    shade = np.add.outer(np.arange(64), np.arange(96)) % 17
    pixels = np.clip(np.asarray(image).astype(int) + shade[..., None] - 8, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def make_tokenizer(*, bos: bool = True, padding_side: str = "right") -> object:
    """A byte-level BPE tokenizer trained on the spot; `bos` puts <s> before every sequence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side=padding_side,
    )


def text_config(language_model: str, vocabulary: int) -> object:
    from transformers import LlamaConfig, Olmo2Config, Qwen2Config

    config = {"llama": LlamaConfig, "qwen2": Qwen2Config, "olmo2": Olmo2Config}[language_model]
    return config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Wide enough that random states differ clearly from token to token and from layer to layer.
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def vision_config(encoder: str, image_size: int, patch_size: int, blocks: int) -> object:
    from transformers import CLIPVisionConfig, Dinov2Config, SiglipVisionConfig

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    if encoder == "clip":
        return CLIPVisionConfig(**sizes, intermediate_size=32)
    if encoder == "siglip":
        return SiglipVisionConfig(**sizes, intermediate_size=32)
    return Dinov2Config(**sizes, mlp_ratio=2)


def image_processor(encoder: str, image_size: int) -> object:
    """As the encoders' checkpoints do: CLIP and DINOv2 crop the centre, SigLIP squashes."""
    square = {"height": image_size, "width": image_size}
    if encoder == "siglip":
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        return SiglipImageProcessorPil(size=square)
    if encoder == "clip":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Cropping
    else:
        from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil as Cropping
    return Cropping(size={"shortest_edge": image_size}, crop_size=square)


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory: a LLaVA-architecture folder with random weights; the same request gives the same folder."""
    made: dict[tuple[object, ...], Path] = {}

    def make(
        encoder: str = "clip",
        language_model: str = "llama",
        *,
        image_size: int = IMAGE_SIZE,
        patch_size: int = PATCH_SIZE,
        vision_blocks: int = 2,
        bos: bool = True,
        chat_template: str | None = None,
    ) -> Path:
        key = (encoder, language_model, image_size, patch_size, vision_blocks, bos, chat_template)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{encoder}-{language_model}")
            _save_llava(made[key], *key)
        return made[key]

    return make


def _save_llava(
    folder: Path,
    encoder: str,
    language_model: str,
    image_size: int,
    patch_size: int,
    vision_blocks: int,
    bos: bool,
    chat_template: str | None,
) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = make_tokenizer(bos=bos)
    strategy = "full" if encoder == "siglip" else "default"
    config = LlavaConfig(
        vision_config=vision_config(encoder, image_size, patch_size, vision_blocks),
        text_config=text_config(language_model, len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        image_processor(encoder, image_size),
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=0 if encoder == "siglip" else 1,
        chat_template=chat_template,
    )
    torch.manual_seed(0)
    network = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # the default 0.02 would leave all visual tokens nearly equal
        for parameter in network.model.multi_modal_projector.parameters():
            parameter.normal_(0, 0.3)
        for name, parameter in network.model.vision_tower.named_parameters():
            if parameter.ndim > 1 and "position" not in name:
                parameter.normal_(0, 0.3)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory: a text-only language model's folder with random weights; cached like `llava_folder`."""
    made: dict[tuple[object, ...], Path] = {}

    def make(language_model: str = "llama", *, bos: bool = True, padding_side: str = "right") -> Path:
        from transformers import AutoModelForCausalLM

        key = (language_model, bos, padding_side)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(language_model)
            tokenizer = make_tokenizer(bos=bos, padding_side=padding_side)
            torch.manual_seed(0)
            network = AutoModelForCausalLM.from_config(text_config(language_model, len(tokenizer)))
            network.save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_llava(llava_folder: Callable[..., Path]) -> object:
    """A loaded VLM: CLIP and Llama, 4 × 4 visual tokens, 4 blocks, d_model 32."""
    from patchlens.models.loading import load_model

    return load_model(llava_folder("clip", "llama"))


@pytest.fixture(scope="session")
def tiny_causal(causal_folder: Callable[..., Path]) -> object:
    """A loaded text-only language model: Llama, 4 blocks, d_model 32, a fast tokenizer with <s>."""
    from patchlens.models.loading import load_model

    return load_model(causal_folder("llama"))
