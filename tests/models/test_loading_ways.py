"""Models that come another way than a folder on the CPU: kept on disk, with an adapter, loaded by the program."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from patchlens.capture.capture import capture
from patchlens.errors import MissingExtra, ModelIncomplete, OptionError
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.logit import LogitLens
from patchlens.models import loading
from patchlens.models.loading import load_model

Folder = Callable[..., Path]
DISK = {
    "model.language_model.embed_tokens": "disk",
    "model.language_model.rotary_emb": "cpu",
    "model.language_model.layers.0": "cpu",
    "model.language_model.layers.1": "disk",
    "model.language_model.layers.2": "cpu",
    "model.language_model.layers.3": "disk",
    "model.language_model.norm": "disk",
    "model.vision_tower": "disk",
    "model.multi_modal_projector": "cpu",
    "lm_head": "disk",
}


def test_a_model_that_is_partly_on_disk(llava_folder: Folder, picture: Image.Image, tmp_path: Path) -> None:
    whole = load_model(llava_folder())
    spread = load_model(llava_folder(), device_map=DISK, offload_folder=tmp_path)
    assert next(spread.blocks[1].parameters()).is_meta
    assert spread.fingerprint == whole.fingerprint
    assert torch.equal(spread.input_embeddings, whole.input_embeddings)
    expected, found = capture(whole, picture, positions="all"), capture(spread, picture, positions="all")
    torch.testing.assert_close(found.vectors, expected.vectors)
    for lens in (LogitLens, EmbeddingLens):
        assert [one.words for one in lens(spread).read(found)] == [one.words for one in lens(whole).read(expected)]
    assert next(spread.blocks[1].parameters()).is_meta  # as we found it


def test_a_network_of_the_program_stays_as_it_is(llava_folder: Folder, picture: Image.Image) -> None:
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    network = AutoModelForMultimodalLM.from_pretrained(llava_folder(), dtype=torch.bfloat16).eval()
    processor = AutoProcessor.from_pretrained(llava_folder())
    before = {name: (id(p), p.requires_grad) for name, p in network.named_parameters()}
    model = load_model(network, processor=processor)
    assert model.network is network
    assert {name: (id(p), p.requires_grad) for name, p in network.named_parameters()} == before
    states = capture(model, picture)
    assert states.vectors.dtype == torch.bfloat16
    assert torch.equal(states.vectors, capture(load_model(llava_folder(), dtype="bfloat16"), picture).vectors)
    text = load_model(network, processor=processor.tokenizer)
    with pytest.raises(OptionError, match="without its processor"):
        capture(text, picture)
    with pytest.raises(OptionError, match="needs its processor"):
        load_model(network)
    with pytest.raises(OptionError, match="training mode"):
        load_model(network.train(), processor=processor)


@pytest.fixture(scope="module")
def lora(causal_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(causal_folder())
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    tuned.save_pretrained(folder)
    return folder


def test_a_lora_adapter(causal_folder: Folder, lora: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain, tuned = load_model(causal_folder()), load_model(causal_folder(), lora=lora)
    alone = load_model(lora)  # the folder of the adapter names its base
    assert tuned.fingerprint == alone.fingerprint != plain.fingerprint
    states = capture(tuned, prompt="A cat", positions="all")
    assert torch.equal(states.vectors, capture(alone, prompt="A cat", positions="all").vectors)
    assert not torch.allclose(states.vectors, capture(plain, prompt="A cat", positions="all").vectors, atol=1e-3)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(causal_folder()), lora).merge_and_unload()
    with torch.no_grad():
        logits = theirs(input_ids=states.token_ids[None]).logits[0]
    torch.testing.assert_close(tuned.unembedding.logits(states.at(4)), logits, atol=1e-4, rtol=1e-4)


def test_adapters_that_cannot_be_used(
    causal_folder: Folder, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelIncomplete, match="does not name its base model"):
        load_model(tmp_path)
    with pytest.raises(ModelIncomplete, match="LoRA adapter"):
        load_model(causal_folder(), lora=tmp_path)
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"patchlens\[lora\]"):
        load_model(causal_folder(), lora=lora)


def test_an_adapter_whose_tensors_have_other_names(causal_folder: Folder, lora: Path, tmp_path: Path) -> None:
    """transformers fills what it does not find with random numbers, and says so where nobody reads it."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(lora / "adapter_model.safetensors")
    save_file(
        {name.replace("layers", "floors"): t for name, t in tensors.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    with pytest.raises(ModelIncomplete, match="does not fit"):
        load_model(causal_folder(), lora=tmp_path)


def test_the_adapter_is_part_of_the_name(causal_folder: Folder, lora: Path) -> None:
    assert str(lora) in load_model(causal_folder(), lora=lora).provenance("test").model


def test_nothing_can_be_chosen_for_a_model_that_is_loaded(llava_folder: Folder) -> None:
    model = load_model(llava_folder())
    assert load_model(model) is model
    for options in ({"device_map": "cpu"}, {"lora": "x"}, {"processor": model.processor}):
        with pytest.raises(OptionError, match=f"so {next(iter(options))} cannot be chosen"):
            load_model(model, **options)
    with pytest.raises(OptionError, match="so dtype cannot"):
        load_model(model.network, processor=model.processor, dtype="float16")
    with pytest.raises(OptionError, match="no model of transformers"):
        loading.model_of(torch.nn.Linear(2, 2).eval(), model.tokenizer)
