"""What the families' tiny models share: a tokenizer made on the spot, small sizes, weights that let things through."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

SENTENCES = (
    "The small red car stands left of the old tree.",
    "A cat sleeps on the sofa, and the cats outside don't.",
    "Describe this image. What stands behind the house? A tall, dark-green pine tree.",
    "In the park there is a dog, a ball and a blue kite.",
)

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""For the config of a language model."""

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
"""For the config of a vision encoder."""

TEMPLATE = "".join(
    (
        "{{ bos_token }}{% for message in messages %}<turn>{{ message['role'] }}: ",
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}",
        "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'audio' %}AUDIO",
        "{% elif part['type'] == 'video' %}VIDEO{% else %}{{ part['text'] }}",
        "{% endif %}{% endfor %}{% endif %}</turn>{% endfor %}",
        "{% if add_generation_prompt %}<turn>assistant: {% endif %}",
    )
)


def template(image: str = "", audio: str = "", video: str = "") -> str:
    """A chat template with the family's placeholders."""
    return TEMPLATE.replace("IMAGE", image).replace("AUDIO", audio).replace("VIDEO", video)


def tokenizer(special: Iterable[str] = (), named: Mapping[str, str] | None = None, **options: Any) -> Any:
    """A byte-level BPE tokenizer.

    Args:
        special: Further special tokens.
        named: Special tokens that processors ask for as attributes: {"boi_token": "<boi>"}.
        **options: For PreTrainedTokenizerFast.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = dict(named or {})
    every = ["<pad>", "<s>", "</s>", "<turn>", "</turn>", *special, *named.values()]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(every),
        special_tokens=list(dict.fromkeys(every)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<turn>", "</turn>", *special],
        extra_special_tokens=named,
        **options,
    )


def lively(network: nn.Module) -> nn.Module:
    """Random weights that keep the size of what goes through them; the usual 0.02 makes all tokens nearly equal."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "position" not in name and "pos_embed" not in name:
                inputs = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / inputs**0.5)
    return network.eval()


def save(folder: Path, network: nn.Module, processor: Any) -> None:
    """Write both as a checkpoint on the Hub has them."""
    lively(network).save_pretrained(folder)
    if type(getattr(processor, "video_processor", None)).__name__ == "_NoVideos":  # of which nothing can be saved
        fields = {name: value for name, value in processor.to_dict().items() if name != "video_processor"}
        processor.to_dict = lambda: fields
    processor.save_pretrained(folder)


def video_part(kind: str, **settings: Any) -> Any:
    """For processors that must have a video part: the real one, or what stands in for it without torchvision."""
    import transformers
    from transformers.utils.import_utils import is_torchvision_available

    from patchlens.models.without_torchvision import _NoVideos

    return getattr(transformers, kind)(**settings) if is_torchvision_available() else _NoVideos(kind)
