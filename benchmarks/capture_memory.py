"""Peak memory of a capture: 3 layers × visual positions of a 32-block model, beside `output_hidden_states=True`.

A random LLaVA of 32 blocks over one picture of 48 × 48 visual tokens, on the CPU. Each way runs in a process of its
own: the weights are made there, the kernel's mark of the highest resident memory is set back, and the way runs once.
What it peaked at is compared with the bound: weights + one block's working memory + what was asked. The working memory
is what the same run takes when it is left after the first block.

    python benchmarks/capture_memory.py [--json FILE]
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BLOCKS, WIDTH, SIDE, PATCH = 32, 1024, 672, 14
LAYERS = (8, 16, 32)
WAYS = ("one block", "patchlens", "output_hidden_states", "output_hidden_states, all logits")


def network() -> tuple[Any, Any]:
    """The model in memory and its processor."""
    from tests.conformance.tiny import template, tokenizer
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(["<image>"])
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=2816,
            num_hidden_layers=BLOCKS,
            num_attention_heads=16,
            num_key_value_heads=16,
            vocab_size=32_000,
            max_position_embeddings=8192,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False), processor


def resident(field: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def one(way: str) -> dict[str, int]:
    """Run one way once, in this process."""
    from patchlens.capture.capture import capture, request_of
    from patchlens.models.loading import load_model
    from patchlens.models.prepare import prepare

    net, processor = network()
    model = load_model(net, processor=processor)
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    inputs = prepare(model, [request_of(picture)]).inputs
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the highest resident memory starts anew
    before = resident("VmRSS")
    if way == "one block":
        kept: Any = capture(model, picture, layers=1)
    elif way == "patchlens":
        kept = capture(model, picture, layers=LAYERS)
    else:
        keep = {} if way.endswith("all logits") else {"logits_to_keep": 1}
        with torch.inference_mode():
            out = net(**inputs, output_hidden_states=True, use_cache=False, **keep)
        visual = inputs["input_ids"][0] == net.config.image_token_id
        kept = torch.stack([out.hidden_states[layer][0, visual] for layer in LAYERS])
    peak = resident("VmHWM") - before
    asked = (kept if isinstance(kept, torch.Tensor) else kept.vectors).nbytes
    return {"weights": sum(p.nbytes for p in net.parameters()), "peak": peak, "asked": asked}


def main() -> None:
    """Run all ways and print them beside the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one(options.way)))
        return
    rows: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        # What is freed goes back to the system at once, so that resident memory is what is held.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--way", way]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rows[way] = json.loads(ended.stdout.splitlines()[-1])
    weights, block = rows["one block"]["weights"], rows["one block"]["peak"]
    bound = weights + block + rows["patchlens"]["asked"]
    print(f"weights {weights / 1e6:,.0f} MB, one block's working memory {block / 1e6:,.0f} MB, ", end="")
    print(f"asked {rows['patchlens']['asked'] / 1e6:,.0f} MB: {bound / 1e6:,.0f} MB together")
    for way in WAYS[1:]:
        row = rows[way]
        row["share"] = (weights + row["peak"]) / bound
        print(f"{way:34} {(weights + row['peak']) / 1e6:7,.0f} MB = {row['share']:.3f} of that", end="")
        print(f"; {row['peak'] / 1e6:,.0f} MB above the weights")
    if options.json:
        options.json.write_text(json.dumps({"bound": bound, "torch": torch.__version__, "ways": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
