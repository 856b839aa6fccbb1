from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, FalconConfig, Gemma2Config, LlamaConfig, MistralConfig, Phi3Config
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from conformance.tries import Pack, alone, one_by_one, pack, packed, packed_difference, tries
from patchlens.models.loading import load_model
from patchlens.models.masking import explicit_masks, packed_inputs, why_not_packed
from patchlens.models.model import Model
from patchlens.models.registry import adapter_for

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = Gemma2Config(**SIZES, head_dim=8, sliding_window=4)  # one layer with a window, one without
WORDS = tuple(range(5, 15))


def model_of(config: Any, dtype: torch.dtype = torch.float32, attention: str | None = None) -> Model:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().to(dtype)
    return Model("tiny", None, network, None, None, adapter_for({"model_type": "llama"}), "")


def inputs(model: Model, trie: Pack, padding: int = 0) -> dict[str, Any]:
    ids = [prefix[-1] for prefix in trie.prefixes] + [0] * padding
    depths = [len(prefix) - 1 for prefix in trie.prefixes] + [0] * padding
    last = [*trie.last, *range(len(trie.prefixes), len(ids))]
    return packed_inputs(model, *(torch.tensor([values]) for values in (ids, depths, last)))


def prefixes_seen(trie: Pack, window: int | None = None) -> Tensor:
    """The mask by its meaning: each token sees its prefixes, those that end in the window."""
    seen = [
        [long[: len(short)] == short and len(long) - len(short) < (window or 99) for short in trie.prefixes]
        for long in trie.prefixes
    ]
    return torch.tensor(seen)


@pytest.fixture(scope="module")
def trie() -> Pack:
    return tries(50)[0]


def test_each_token_sees_its_prefixes_and_padding_sees_itself(trie: Pack) -> None:
    model = model_of(LlamaConfig(**SIZES))
    made = inputs(model, trie, padding=3)
    count = len(trie.prefixes)
    expected = torch.eye(count + 3, dtype=torch.bool)
    expected[:count, :count] = prefixes_seen(trie)
    assert torch.equal(made["attention_mask"], expected[None, None])
    assert made["position_ids"][0, :count].tolist() == [len(prefix) - 1 for prefix in trie.prefixes]
    assert made["use_cache"] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eager_attention_gets_a_mask_to_add_in_the_models_type(trie: Pack, dtype: torch.dtype) -> None:
    model = model_of(LlamaConfig(**SIZES), dtype, "eager")
    mask = inputs(model, trie)["attention_mask"]
    assert mask.dtype == dtype
    assert mask.isfinite().all()
    assert torch.equal(mask[0, 0] == 0, prefixes_seen(trie))
    assert (mask[0, 0][~prefixes_seen(trie)] == torch.finfo(dtype).min).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(trie: Pack, attention: str, dtype: torch.dtype, tolerance: float) -> None:
    model = model_of(LlamaConfig(**SIZES), dtype, attention)
    assert packed_difference(model, [trie], one_by_one(model, [trie])) <= tolerance


def test_windows_are_cut_into_the_mask_of_their_layers(trie: Pack) -> None:
    masks = inputs(model_of(SLIDING), trie)["attention_mask"]
    assert torch.equal(masks["full_attention"][0, 0], prefixes_seen(trie))
    assert torch.equal(masks["sliding_attention"][0, 0], prefixes_seen(trie, window=4))


def test_one_mask_serves_where_no_window_is_exceeded() -> None:
    short = pack(WORDS[:4], WORDS[:2] + WORDS[5:7])
    assert torch.equal(inputs(model_of(SLIDING), short)["attention_mask"][0, 0], prefixes_seen(short))


def test_a_model_whose_layers_all_slide_gets_one_mask(trie: Pack) -> None:
    mask = inputs(model_of(MistralConfig(**SIZES, sliding_window=4)), trie)["attention_mask"]
    assert torch.equal(mask[0, 0], prefixes_seen(trie, window=4))


def test_the_masks_of_a_lone_sequence_are_those_that_transformers_makes() -> None:
    config = model_of(SLIDING).decoder.config
    row = pack(WORDS)
    masks = inputs(model_of(SLIDING), row)["attention_mask"]
    given = {"attention_mask": None, "past_key_values": None, "allow_is_causal_skip": False}
    embeds = torch.zeros(1, len(WORDS), 16)
    assert torch.equal(masks["full_attention"], create_causal_mask(config, embeds, **given))
    del given["allow_is_causal_skip"]
    assert torch.equal(masks["sliding_attention"], create_sliding_window_causal_mask(config, embeds, **given))


def test_flex_attention_is_exchanged_and_comes_back(trie: Pack) -> None:
    model = model_of(LlamaConfig(**SIZES))
    expected = one_by_one(model, [trie])
    model.decoder.set_attn_implementation("flex_attention")
    with explicit_masks(model):
        assert model.decoder.config._attn_implementation == "sdpa"
        assert packed_difference(model, [trie], expected) <= 1e-5
    assert model.decoder.config._attn_implementation == "flex_attention"
    with pytest.raises(KeyError), explicit_masks(model):
        raise KeyError
    assert model.decoder.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_takes_masks_stays(attention: str) -> None:
    model = model_of(LlamaConfig(**SIZES), attention=attention)
    with explicit_masks(model):
        assert model.decoder.config._attn_implementation == attention
    assert model.decoder.config._attn_implementation == attention


def test_a_soft_cap_is_kept() -> None:
    """sdpa would leave it out: first that it does, then that it is not taken in place of flex attention."""
    config = Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=0.5)
    model = model_of(config, attention="eager")
    with_cap = alone(model, [WORDS])[0][2]
    model.decoder.set_attn_implementation("sdpa")
    assert (alone(model, [WORDS])[0][2] - with_cap).norm() > 0.1
    model.decoder.set_attn_implementation("flex_attention")
    with explicit_masks(model):
        torch.testing.assert_close(packed(model, [pack(WORDS)])[2][0], with_cap)
    assert model.decoder.config._attn_implementation == "flex_attention"


def test_only_the_language_model_of_a_vlm_is_changed(llava_folder: Callable[..., Path]) -> None:
    model = load_model(llava_folder("clip", "llama"))
    config: Any = model.network.config
    model.decoder.set_attn_implementation("flex_attention")
    before = (config._attn_implementation, config.vision_config._attn_implementation)
    with explicit_masks(model):
        assert config.text_config._attn_implementation == "sdpa"
        assert (config._attn_implementation, config.vision_config._attn_implementation) == before
    assert config.text_config._attn_implementation == "flex_attention"
    assert (config._attn_implementation, config.vision_config._attn_implementation) == before


def test_the_parts_of_a_composite_config_stay_as_they_are() -> None:
    """A decoder may have one; transformers' own switch would hand the new name down to its parts."""
    from transformers import MoshiConfig

    config = MoshiConfig(**SIZES, head_dim=8, ffn_dim=24, audio_vocab_size=10)
    model = model_of(config, attention="sdpa")
    used: Any = model.decoder.config
    used.audio_encoder_config._attn_implementation = "eager"
    used._attn_implementation_internal = "flash_attention_2"  # as on a GPU
    model.decoder._check_and_adjust_attn_implementation = lambda name, **_: name
    with explicit_masks(model):
        assert (used._attn_implementation, used.audio_encoder_config._attn_implementation) == ("sdpa", "eager")
    assert used._attn_implementation == "flash_attention_2"
    assert used.audio_encoder_config._attn_implementation == "eager"


def test_attention_that_cannot_be_exchanged() -> None:
    config = FalconConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = model_of(config)
    assert why_not_packed(model, 10) is None
    model.decoder.config._attn_implementation_internal = "flash_attention_2"
    assert "flash_attention_2" in (why_not_packed(model, 10) or "")


def test_embeddings_of_positions_that_follow_the_longest_sequence() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors, "original_max_position_embeddings": 8}
    model = model_of(Phi3Config(**SIZES, rope_parameters=rope, original_max_position_embeddings=8))
    assert why_not_packed(model, 8) is None
    assert "longer than 8 tokens" in (why_not_packed(model, 9) or "")
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = model_of(LlamaConfig(**SIZES, rope_parameters=rope))
    assert why_not_packed(model, 64) is None
    assert "dynamic" in (why_not_packed(model, 65) or "")


def test_longrope_indeed_depends_on_the_neighbours() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors, "original_max_position_embeddings": 8}
    model = model_of(Phi3Config(**SIZES, rope_parameters=rope, original_max_position_embeddings=8))
    both = [pack(WORDS[:8]), pack(WORDS)]
    assert packed_difference(model, both[:1], one_by_one(model, both[:1])) <= 1e-5
    assert packed_difference(model, both, one_by_one(model, both)) > 0.01


class OneMask(nn.Module):
    """A decoder as in a file that came with a model; this module imports what makes masks, as such files do."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> None: ...


def test_code_that_makes_its_own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("remote", None, OneMask(LlamaConfig(**SIZES)), None, None, adapter_for({"model_type": "llama"}), "")
    assert why_not_packed(model, 10) is None
    monkeypatch.setattr(OneMask, "__module__", nn.Module.__module__)
    assert "its own attention masks" in (why_not_packed(model, 10) or "")


def test_windows_need_a_decoder_that_takes_a_mask_for_each_type_of_layer() -> None:
    model = Model("remote", None, OneMask(SLIDING), None, None, adapter_for({"model_type": "llama"}), "")
    assert why_not_packed(model, 4) is None
    assert "see 4 tokens only" in (why_not_packed(model, 5) or "")
    assert why_not_packed(model_of(SLIDING), 5) is None
