"""What the bank benchmarks build from: a random Llama with its tokenizer, and the two corpora."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from _phrases import descriptions, inventory

CONFIG = LlamaConfig(
    vocab_size=32_000,
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=8,
    num_attention_heads=8,
    max_position_embeddings=512,
    initializer_range=0.06,  # wide enough that attention is not flat: contexts then differ
    bos_token_id=1,
    pad_token_id=0,
    eos_token_id=None,
)


def make_model(folder: Path, lines: Sequence[str]) -> Path:
    """Save the model with its tokenizer."""
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(make_tokenizer(folder, lines))
    return folder


def make_tokenizer(folder: Path, lines: Sequence[str]) -> Path:
    """Save a byte-level BPE of the lines; it begins with <s> and pads on the right."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=CONFIG.vocab_size,
            special_tokens=["<pad>", "<s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", pad_token="<pad>", padding_side="right", model_max_length=512
    ).save_pretrained(folder)
    return folder


def block(lines: Sequence[str], count: int) -> Sequence[str]:
    """Consecutive lines from a quarter of the way in, or all from the start where there are not so many."""
    start = min(len(lines) // 4, len(lines) - count)
    return lines[start : start + count]


def write(path: Path, lines: Sequence[str]) -> Path:
    """Write a corpus, one sentence a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def region_phrases(lines: Sequence[str], count: int) -> tuple[list[str], dict[str, float]]:
    """So many phrases with the words of a corpus, each once, and how varied they are."""
    drawn, phrases = 0, dict[str, None]()
    for phrase in descriptions(inventory(lines)):
        drawn += 1
        phrases[phrase] = None
        if len(phrases) == count:
            break
    words = Counter(chain.from_iterable(phrase.lower().rstrip(".").split() for phrase in phrases))
    return list(phrases), {
        "phrases": count,
        "share_of_new": round(count / drawn, 4),
        "words_each": round(words.total() / count, 2),
        "distinct_words": len(words),
    }
