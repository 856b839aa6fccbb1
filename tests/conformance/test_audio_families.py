"""What every family that hears must hold, over the registry itself: see test_families.py, which does it for images.

A family's tiny model is `families/<family>.py`: `build(folder)`; `SECONDS`, at least five lengths of recordings.
Optional: `quiet(network)` where more than attention mixes the encoder's frames, `SEVERAL = False` where a prompt takes
one recording, `PADDED = True` where silence is put behind a recording and has tokens.
"""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patchlens.capture.capture import capture, capture_batch, request_of
from patchlens.errors import AudioError, ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.model import text_decoder
from patchlens.models.prepare import prepare
from patchlens.models.registry import families

HEARD = [adapter for adapter in families() if "audio" in adapter.modalities and "image" not in adapter.modalities]
RATE = 16_000


def _tiny(family: str) -> ModuleType:
    return import_module(f"tests.conformance.families.{family}")


@pytest.fixture(scope="module", params=[adapter.family for adapter in HEARD])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiny(family: str) -> ModuleType:
    return _tiny(family)


@pytest.fixture(scope="module")
def model(tiny: ModuleType, family: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(family)
    torch.manual_seed(0)
    tiny.build(folder)
    return load_model(folder)


def _noise(seconds: float, seed: int = 0) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    return samples, RATE


def test_there_are_five_lengths() -> None:
    for adapter in HEARD:
        assert len(_tiny(adapter.family).SECONDS) >= 5, adapter.family


def test_it_is_served_by_its_own_family(model: Model, family: str) -> None:
    assert model.adapter.family == family
    assert model.adapter.card.geometry


def test_the_tokens_of_every_length(model: Model, tiny: ModuleType) -> None:
    """Preparing compares the family's formula with what the processor made, and raises where they differ."""
    counts = set()
    for seconds in tiny.SECONDS:
        tokens = prepare(model, [request_of(audio=_noise(seconds), prompt="What is it?")]).sequences[0].tokens
        heard = tokens.having("audio")
        assert torch.equal(heard, tokens.visual)
        assert tokens.cells[heard].tolist() == list(range(int(heard.sum())))
        counts.add(int(heard.sum()))
        begins, ends = tokens.seconds[heard].T
        assert begins[0] == 0
        assert (ends > begins).all()
        assert (begins.diff() >= 0).all()
        assert (begins[1:] <= ends[:-1] + 1e-5).all()  # no moment between tokens is left out
        assert tokens.seconds[~heard].isnan().all()
    assert len(counts) > 1
    assert 0 not in counts


def test_a_formula_that_counts_otherwise_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above could fail."""
    spans = type(model.adapter).spans
    monkeypatch.setattr(
        type(model.adapter), "spans", lambda *given: torch.cat([spans(*given), torch.zeros((1, 2))]), raising=True
    )
    with pytest.raises(ModelIncomplete, match="audio tokens, but its settings say"):
        prepare(model, [request_of(audio=_noise(0.5), prompt="What is it?")])


def test_positions_are_those_that_the_model_fills(model: Model, tiny: ModuleType) -> None:
    """With another recording of the same length, what enters the first block changes there and nowhere else."""
    for seconds in tiny.SECONDS:
        first, second = (
            capture(model, audio=_noise(seconds, seed), prompt="What is it?", positions="all", layers=0)
            for seed in (0, 1)
        )
        moved = (first.at(0) - second.at(0)).abs().amax(dim=1) > 1e-6
        assert torch.equal(moved, first.tokens.having("audio"))


@contextlib.contextmanager
def _quiet(network: nn.Module, tiny: ModuleType) -> Iterator[None]:
    """Attention in the encoder adds nothing, so that each of its frames depends on its own moment."""
    if hasattr(tiny, "quiet"):
        with tiny.quiet(network):
            yield
        return
    decoder = set(text_decoder(network).modules())

    def nothing(_: nn.Module, __: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.zeros_like(output[0]), *output[1:])

    parts = [part for part in network.modules() if part not in decoder and "Attention" in type(part).__name__]
    assert parts, "no attention was found in the encoder"
    handles = [part.register_forward_hook(nothing) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _most_moved(model: Model, samples: np.ndarray, span: tuple[float, float]) -> int:
    begin, end = (round(moment * RATE) for moment in span)
    changed = samples.copy()
    changed[begin:end] = np.random.default_rng(9).normal(0, 0.1, len(changed[begin:end]))
    assert (changed != samples).any()
    before, after = (capture(model, audio=(each, RATE), layers=0).at(0).float() for each in (samples, changed))
    return int((after - before).norm(dim=1).argmax())


def test_time_by_experiment(model: Model, tiny: ModuleType) -> None:
    """Changing the samples of one token's span moves a token of that span most.

    The token itself, or one that stands for the same moments (a window's queries all look at the whole window). A frame
    of the spectrogram sees 25 ms around its middle, and convolutions look one or two frames to either side: so a
    neighbour moves too, and in one case in ten may move more.
    """
    rng = np.random.default_rng(0)
    right = tried = 0
    with _quiet(model.network, tiny):
        for seconds in tiny.SECONDS:
            samples, _ = _noise(seconds)
            spans = capture(model, audio=(samples, RATE), layers=0).tokens.seconds.tolist()
            inside = [number for number, (_, end) in enumerate(spans) if end <= seconds]
            for token in rng.permutation(inside)[:6].tolist():
                moved = _most_moved(model, samples, tuple(spans[token]))
                same = [number for number, span in enumerate(spans) if span == spans[token]]
                assert min(same) - 1 <= moved <= max(same) + 1, (seconds, token, moved)
                right += moved in same
                tried += 1
    assert tried >= 10
    assert right >= 0.9 * tried


def test_observing_changes_nothing(model: Model, tiny: ModuleType) -> None:
    prepared = prepare(model, [request_of(audio=_noise(tiny.SECONDS[1]), prompt="What is it?")])
    inputs = model.accepted(prepared.inputs)
    with torch.no_grad():
        before = model.network(**inputs).logits
        capture(model, audio=_noise(tiny.SECONDS[1]), prompt="What is it?")
        assert torch.equal(model.network(**inputs).logits, before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.blocks)


def test_a_layer_is_what_its_block_gives(model: Model, tiny: ModuleType) -> None:
    recording = _noise(tiny.SECONDS[1])
    prepared = prepare(model, [request_of(audio=recording, prompt="What is it?")])
    given: dict[int, Tensor] = {}
    handles = [
        block.register_forward_hook(
            lambda _, __, output, layer=number + 1: given.update(
                {layer: output if isinstance(output, Tensor) else output[0]}
            )
        )
        for number, block in enumerate(model.blocks)
    ]
    try:
        with torch.no_grad():
            logits = model.network(**model.accepted(prepared.inputs)).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    states = capture(model, audio=recording, prompt="What is it?", positions="all")
    for layer in range(1, model.n_layers + 1):
        torch.testing.assert_close(states.at(layer), given[layer][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.unembedding.logits(states.at(model.n_layers)), logits, atol=1e-3, rtol=1e-3)


def test_alone_as_in_a_batch(model: Model, tiny: ModuleType) -> None:
    requests = [
        request_of(audio=_noise(seconds, seed), prompt="What is it?" + " A cat" * seed)
        for seed, seconds in enumerate(tiny.SECONDS[:3])
    ]
    together = capture_batch(model, requests, positions="all")
    for request, states in zip(requests, together, strict=True):
        (alone,) = capture_batch(model, [request], positions="all")
        assert torch.equal(alone.token_ids, states.token_ids)
        assert torch.equal(alone.tokens.kinds, states.tokens.kinds)
        torch.testing.assert_close(alone.vectors, states.vectors, atol=2e-4, rtol=1e-3)


def test_several_recordings(model: Model, tiny: ModuleType) -> None:
    if not getattr(tiny, "SEVERAL", True):
        pytest.skip(f"{model.adapter.family} takes one recording")
    first, second = _noise(tiny.SECONDS[0], 1), _noise(tiny.SECONDS[0], 2)
    states = capture(model, audio=[first, second], prompt="Which is louder?", layers=0)
    sources = states.tokens.sources
    assert set(sources.tolist()) == {0, 1}
    assert sorted(sources.tolist()) == sources.tolist()
    turned = capture(model, audio=[second, first], prompt="Which is louder?", layers=0)
    count = int((sources == 0).sum())
    torch.testing.assert_close(states.at(0)[:count], turned.at(0)[-count:], atol=1e-4, rtol=1e-3)
    assert torch.equal(states.tokens.seconds[:count], states.tokens.seconds[-count:])


def test_a_click_is_too_short_for_a_token(model: Model, tiny: ModuleType) -> None:
    click = (np.full(40, 0.1, np.float32), RATE)
    if getattr(tiny, "PADDED", False):
        assert len(capture(model, audio=click, layers=0)) > 0
        return
    with pytest.raises(AudioError, match=r"of 2 ms .* Give a longer recording"):
        capture(model, audio=click, layers=0)


def test_text_alone(model: Model) -> None:
    states = capture(model, prompt="What is it?", positions="all")
    assert not states.tokens.visual.any()


def test_a_generated_answer(model: Model, tiny: ModuleType) -> None:
    recording = _noise(tiny.SECONDS[0])
    states = capture(model, audio=recording, prompt="What is it?", positions="answer", answer=3)
    assert 1 <= len(states) <= 3
    prompt = capture(model, audio=recording, prompt="What is it?", positions="all", layers=model.n_layers)
    # Its first token is what the prompt's last state says.
    best = int(model.unembedding.logits(prompt.at(model.n_layers)[-1:])[0].argmax())
    assert best == int(states.token_ids[0])


@pytest.mark.parametrize("site", ["encoder", "projector input", "projector output"])
def test_sites_of_the_encoder(model: Model, tiny: ModuleType, site: str) -> None:
    recording = _noise(tiny.SECONDS[0])
    states = capture(model, audio=recording, layers="all" if site == "encoder" else 0, site=site)
    assert len(states) > 0
    assert states.site == site
    if site == "projector output":
        assert states.vectors.shape[-1] == model.d_model
