"""The three parts of the picturebook model, and how they become one ordinary Hugging Face folder.

Every part is a real transformers class with a small config; the assembled folder is loaded by the same code
as any downloaded model.
"""

import itertools
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from patchlens.picturebook.language import documents, sentences
from patchlens.picturebook.scene import CANVAS, FIRST_SCENE

__all__ = [
    "GRID",
    "PATCH",
    "assemble",
    "count_parameters",
    "freeze",
    "new_encoder",
    "new_image_processor",
    "new_language_model",
    "save",
    "train_tokenizer",
]

PATCH = 12
"""Side of a patch in pixels."""
GRID = CANVAS // PATCH
"""Rows and columns of visual tokens."""

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
_VOCABULARY = 800  # small enough that rarer nouns are built from several tokens

_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}\n{% endif %}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on the world's own sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = itertools.islice(sentences(seed), 60_000)
    readings = (
        "".join(text for text, _ in d.parts) for d in itertools.islice(documents(seed, FIRST_SCENE["language"]), 6_000)
    )
    tokenizer.train_from_iterator(itertools.chain(texts, readings), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def new_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A causal language model with random weights: 8 blocks of width 224, tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=224,
            intermediate_size=608,
            num_hidden_layers=8,
            num_attention_heads=7,
            num_key_value_heads=7,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            attn_implementation="sdpa",
        )
    )


def new_encoder() -> SiglipVisionModel:
    """A vision encoder with random weights: 5 blocks of width 128 over 12 × 12 patches."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=128,
            intermediate_size=448,
            num_hidden_layers=5,
            num_attention_heads=4,
            image_size=CANVAS,
            patch_size=PATCH,
            vision_use_head=False,
            attn_implementation="eager",  # on a CPU faster to train than fused attention, at 144 patches
        )
    )


def new_image_processor() -> SiglipImageProcessorPil:
    """Squash to the canvas, scale to [-1, 1]."""
    return SiglipImageProcessorPil(size={"height": CANVAS, "width": CANVAS})


def assemble(
    encoder: SiglipVisionModel, language_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """One LLaVA model of a trained encoder, a trained language model and a new projector."""
    config = LlavaConfig(
        vision_config=encoder.config,
        text_config=language_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID * GRID,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    _copy(encoder, model.model.vision_tower)
    _copy(language_model.model, model.model.language_model)
    model.tie_weights()
    return model


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model with its processor as an ordinary Hugging Face folder."""
    processor = LlavaProcessor(
        image_processor=new_image_processor(),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        num_additional_image_tokens=0,
        chat_template=_CHAT_TEMPLATE,
    )
    model.generation_config.max_new_tokens = 80
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights; both modules must have the same ones."""
    state: dict[str, Any] = source.state_dict()
    target.load_state_dict(state, strict=True)


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum({p.data_ptr(): p.numel() for p in module.parameters()}.values())


def freeze(module: nn.Module) -> None:
    """Take a module out of training."""
    module.eval()
    module.requires_grad_(False)
