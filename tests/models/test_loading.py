import errno
import json
import logging as python_logging
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.utils import logging

from conftest import make_tokenizer
from patchlens.errors import (
    MissingExtra,
    ModelIncomplete,
    ModelNotFound,
    OptionError,
    UnknownFamily,
)
from patchlens.models.loading import load_model

ENCODERS = ("clip", "siglip", "dinov2")
LANGUAGE_MODELS = ("llama", "qwen2", "olmo2")


@pytest.fixture
def copy(llava_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A VLM's folder that a test may damage."""
    return shutil.copytree(llava_folder(), tmp_path / "model")


@pytest.fixture
def causal_copy(causal_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(causal_folder(), tmp_path / "model")


def _edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_and_language_model(llava_folder, encoder: str, language_model: str) -> None:
    model = load_model(llava_folder(encoder, language_model))
    assert (model.adapter.family, model.n_layers, model.d_model) == ("llava", 4, 32)
    assert type(model.network).__name__ == "LlavaForConditionalGeneration"
    assert language_model in type(model.decoder).__name__.lower()
    assert encoder in type(model.network.model.vision_tower).__name__.lower()
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_text_only(causal_folder, language_model: str) -> None:
    model = load_model(str(causal_folder(language_model)))
    assert (model.adapter.family, model.n_layers, model.processor) == ("causal", 4, None)
    assert model.name == str(causal_folder(language_model))


def test_a_loaded_model_comes_back(tiny_causal) -> None:
    assert load_model(tiny_causal) is tiny_causal


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16)],
)
def test_data_types(llava_folder, dtype: object, expected: torch.dtype) -> None:
    assert load_model(llava_folder(), dtype=dtype).network.dtype == expected


def test_auto_keeps_what_is_stored(causal_copy: Path) -> None:
    load_model(causal_copy).network.bfloat16().save_pretrained(causal_copy)
    assert load_model(causal_copy).network.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float8", "int8", torch.int64, ""])
def test_data_types_that_are_none(causal_folder, dtype: object) -> None:
    with pytest.raises(OptionError, match="Choose among auto, float32"):
        load_model(causal_folder(), dtype=dtype)


def test_a_plain_device_needs_no_accelerate(causal_folder) -> None:
    assert load_model(causal_folder(), device_map="cpu").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_this_machine_has_not(causal_folder) -> None:
    with pytest.raises(OptionError, match="device 'cuda:0'"):
        load_model(causal_folder(), device_map="cuda:0")


def test_spreading_over_devices_names_the_extra(causal_folder) -> None:
    pytest.importorskip("transformers")
    try:
        import accelerate  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="pip install accelerate"):
            load_model(causal_folder(), device_map="auto")


def test_loading_is_silent_and_leaves_no_setting_behind(llava_folder, capfd: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    logging.set_verbosity_info()
    root = python_logging.getLogger("transformers")
    try:
        before = (
            logging.get_verbosity(),
            are_progress_bars_disabled(),
            list(warnings.filters),
            list(root.handlers),
        )
        capfd.readouterr()
        load_model(llava_folder())
        assert capfd.readouterr() == ("", "")
        assert logging.is_progress_bar_enabled()
        after = (
            logging.get_verbosity(),
            are_progress_bars_disabled(),
            list(warnings.filters),
            list(root.handlers),
        )
        assert after == before
    finally:
        logging.set_verbosity_warning()
        logging.disable_progress_bar()


def test_settings_come_back_after_a_failure_too(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    with pytest.raises(ModelIncomplete):
        load_model(copy)
    assert (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    ) == before


def test_loading_draws_no_random_number(llava_folder) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(llava_folder())
    assert torch.equal(torch.rand(3), expected)


# What is missing


def test_no_such_folder(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", str(tmp_path / "none"), "./none", "~/no such folder", "a/b/c"):
        with pytest.raises(ModelNotFound, match="no such folder"):
            load_model(missing)


def test_names_that_the_disk_refuses(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("./" + "a" * 300, copy / ("a" * 300), "~nobody-of-this-name/model"):
        with pytest.raises(ModelNotFound, match="no such folder"):
            load_model(name)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(ModelNotFound, match="no such folder"):
        load_model(copy)


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_no_such_model_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=f"Loading {name}.*the Hub gave nothing"):
        load_model(name)


def test_a_file_is_no_folder(copy: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a folder"):
        load_model(copy / "config.json")


def test_a_folder_has_no_revisions(copy: Path) -> None:
    with pytest.raises(OptionError, match="revision"):
        load_model(copy, revision="main")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelIncomplete, match=r"no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"llava"', "\x00\x01", "null"])
def test_config_that_is_not_json(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelIncomplete, match=r"config\.json cannot be read"):
        load_model(copy)


@pytest.mark.parametrize("model_type", ["foo_vl", "bert_but_not", None])
def test_unknown_family(copy: Path, model_type: str | None) -> None:
    _edit(copy / "config.json", model_type=model_type)
    with pytest.raises(UnknownFamily, match=r"Known: llava"):
        load_model(copy)


def test_a_config_with_absurd_values(copy: Path) -> None:
    _edit(copy / "config.json", text_config={"model_type": "llama", "hidden_size": "wide"})
    with pytest.raises(ModelIncomplete):
        load_model(copy)


@pytest.mark.parametrize("kind", ["copy", "causal_copy"])
def test_no_weights(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelIncomplete, match="weights"):
        load_model(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_cut_short(copy: Path, share: float) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelIncomplete, match="weights"):
        load_model(copy)


def test_weights_that_are_something_else(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ModelIncomplete, match="weights"):
        load_model(copy)


def test_a_tensor_that_is_missing(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(key for key in weights if "layers.2.self_attn.q_proj" in key)
    del weights[name]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelIncomplete, match=r"layers\.2\.self_attn\.q_proj"):
        load_model(copy)


def test_a_tensor_of_another_shape(copy: Path) -> None:
    _edit(copy / "config.json", image_seq_length=1)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelIncomplete):
        load_model(copy)


def test_a_missing_shard(causal_copy: Path) -> None:
    load_model(causal_copy).network.save_pretrained(causal_copy, max_shard_size="40KB")
    (causal_copy / "model.safetensors").unlink()
    shards = sorted(causal_copy.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    with pytest.raises(ModelIncomplete, match="weights"):
        load_model(causal_copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_with_nan(causal_copy: Path, value: float) -> None:
    weights = load_file(causal_copy / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = value
    save_file(weights, causal_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelIncomplete, match=r"Layer 2 .* NaN or infinity"):
        load_model(causal_copy)


@pytest.mark.parametrize("kind", ["copy", "causal_copy"])
def test_a_model_whose_tokens_see_later_ones(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config)["is_causal"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelIncomplete, match="is not causal"):
        load_model(folder)


def test_no_processor(copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelIncomplete, match="processor"):
        load_model(copy)


@pytest.mark.parametrize("kind", ["copy", "causal_copy"])
def test_no_tokenizer(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelIncomplete, match=r"tokenizer|processor"):
        load_model(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_companion(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(ModelIncomplete):
        load_model(copy)


def test_a_tokenizer_of_another_model(causal_copy: Path) -> None:
    tokenizer = json.loads((causal_copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {piece: number + 10_000 for piece, number in vocabulary.items()}
    (causal_copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelIncomplete, match="of another model"):
        load_model(causal_copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_additional_image_tokens": 0},
        {"vision_feature_select_strategy": "full"},
        {"patch_size": 16},
        {"patch_size": None},
    ],
)
def test_a_processor_that_counts_otherwise(copy: Path, fields: dict[str, object]) -> None:
    _edit(copy / "processor_config.json", **fields)
    with pytest.raises(ModelIncomplete, match=r"visual tokens|first run|failed on 'a test image'"):
        load_model(copy)


def test_a_model_that_selects_otherwise_than_its_processor(copy: Path) -> None:
    """The count of placeholders is right, but the encoder gives one more: only running it can tell."""
    _edit(copy / "config.json", vision_feature_select_strategy="full")
    with pytest.raises(ModelIncomplete, match="first run"):
        load_model(copy)


def test_an_encoder_whose_layout_is_not_known(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["model_type"] = "siglip2_vision_model"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises((UnknownFamily, ModelIncomplete)):
        load_model(copy)


def test_threads_that_load_at_once_leave_transformers_as_it_was(llava_folder) -> None:
    """While it loads, transformers puts a stand-in for `tie_weights`; two threads would put back each other's."""
    folder, before = llava_folder("clip", "llama"), PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(load_model, [folder] * 8))
    assert PreTrainedModel.tie_weights is before
    assert len({model.fingerprint for model in loaded}) == 1


def test_a_soft_cap_on_attention_is_not_lost(tmp_path: Path) -> None:
    """Under sdpa, the default, transformers would leave it out; so such a model is run with eager attention."""
    from transformers import AutoModelForCausalLM, Gemma2Config

    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(vocab_size=len(tokenizer), num_hidden_layers=1, head_dim=8, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).decoder.config._attn_implementation == "eager"
