"""What every family must hold, over the registry itself: none can be added without its tiny model.

A family's tiny model is `families/<family>.py` beside this file: `build(folder)` saves a network of the real config
class with random weights and its real processor; `SIZES` are image sizes (height, width): square, wide, tall, tiny,
large, several tiles. Optional: `SEVERAL = False` where a prompt takes one image only, `quiet(network)` where attention
in the encoder is silenced otherwise than here, `PLACED = False` where tokens have no place, `OWN_MASK = False` where
the model has no mask of its own to compare with, `NO_SITES` for families without an encoder or a projector, and `NEEDS`
for a library without which its processor does not load.
"""

import base64
import contextlib
import math
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conformance.tiny import SENTENCES
from torch import Tensor, nn

from patchlens.bank.build import build_bank
from patchlens.capture.capture import capture, capture_batch, request_of
from patchlens.capture.elsewhere import open_states
from patchlens.cli import main
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.latent import LatentLens
from patchlens.lenses.logit import LogitLens
from patchlens.lenses.reading import open_readings
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare
from patchlens.models.registry import families
from patchlens.views.document import document

TINY = Path(__file__).parent / "families"


def _tiny(family: str) -> ModuleType:
    return import_module(f"tests.conformance.families.{family}")


def _can_be_made(family: str) -> bool:
    needs = getattr(_tiny(family), "NEEDS", None)
    return needs is None or find_spec(needs) is not None


SEEN = [adapter for adapter in families() if "image" in adapter.modalities]
HERE = [adapter.family for adapter in SEEN if _can_be_made(adapter.family)]
"""Those that need a library which is not here are proved by test_with_torchvision.py."""


@pytest.fixture(scope="module", params=HERE)
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


def _placed(tiny: ModuleType, model: Model) -> None:
    if not getattr(tiny, "PLACED", True):
        pytest.skip(f"the visual tokens of {model.adapter.family} have no place")


def _noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 160, (*size, 3), dtype=np.uint8)


def test_every_family_has_a_tiny_model() -> None:
    unfounded = {adapter.family for adapter in families()} - {path.stem for path in TINY.glob("*.py")} - {"causal"}
    assert not unfounded
    for adapter in SEEN:
        assert len(_tiny(adapter.family).SIZES) >= 5, adapter.family


def test_it_is_served_by_its_own_family(model: Model, family: str) -> None:
    assert model.adapter.family == family
    assert model.adapter.card.geometry


def test_the_tokens_of_every_size(model: Model, tiny: ModuleType) -> None:
    """Preparing compares the family's formula with what the processor made, and raises where they differ."""
    counts = set()
    for size in tiny.SIZES:
        request = request_of(_noise(size), "What is it?")
        tokens = prepare(model, [request]).sequences[0].tokens
        if model.adapter.beside_sequence:
            tokens = model.adapter.visual_map(model.config, model.processor, request)
        counts.add(int(tokens.visual.sum()))
        for number, tile in enumerate(tokens.layout[0]):
            cells = tokens.cells[tokens.tiles == number]
            assert cells.tolist() == list(range(len(tile.grid)))
    if getattr(tiny, "PLACED", True):
        assert counts
        assert 0 not in counts


def test_tiles_cover_what_is_shown_without_overlap(model: Model, tiny: ModuleType) -> None:
    _placed(tiny, model)
    for size in tiny.SIZES:
        tiles = model.adapter.tiles(model.config, model.processor, size, 1)
        assert tiles
        assert all(tile.grid.image_size == size for tile in tiles)
        parts = [tile.grid.region for tile in tiles if tile.role == "tile"]
        area = sum((bottom - top) * (right - left) for top, left, bottom, right in parts)
        if parts:
            hull = (
                min(p[0] for p in parts),
                min(p[1] for p in parts),
                max(p[2] for p in parts),
                max(p[3] for p in parts),
            )
            assert area == pytest.approx((hull[2] - hull[0]) * (hull[3] - hull[1]), rel=0.02)


def test_positions_are_those_that_the_model_fills(model: Model, tiny: ModuleType) -> None:
    """Where the model puts what it made of the image: its own placeholder mask."""
    if not getattr(tiny, "OWN_MASK", True):
        pytest.skip("the model has no mask of its own")
    for size in tiny.SIZES:
        prepared = prepare(model, [request_of(_noise(size), "What is it?")])
        tokens = prepared.sequences[0].tokens
        ours = tokens.visual | tokens.having("filler")
        assert torch.equal(_own_mask(model, prepared.inputs), ours)


def _own_mask(model: Model, inputs: dict[str, Tensor]) -> Tensor:
    owner = next(part for part in model.network.modules() if hasattr(part, "get_placeholder_mask"))
    found: list[Tensor] = []
    original = owner.get_placeholder_mask

    def recorded(*args: Any, **kwargs: Any) -> Any:
        mask = original(*args, **kwargs)
        masks = mask if isinstance(mask, tuple) else (mask,)
        found.append(next(each for each in masks if isinstance(each, Tensor)))
        return mask

    owner.get_placeholder_mask = recorded
    try:
        with torch.no_grad():
            model.network(**model.accepted(inputs))
    finally:
        del owner.get_placeholder_mask
    mask = found[0].cpu()
    return mask[0].any(dim=-1) if mask.ndim == 3 else mask[0]


@contextlib.contextmanager
def _quiet(network: nn.Module, tiny: ModuleType) -> Iterator[None]:
    """Attention in the encoder adds nothing, so that each token depends on its own pixels alone."""
    if hasattr(tiny, "quiet"):
        with tiny.quiet(network):
            yield
        return
    from patchlens.models.model import text_decoder

    decoder = set(text_decoder(network).modules())

    def nothing(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        return (torch.zeros_like(output[0]), *output[1:])

    named = [(type(part).__name__, part) for part in network.modules() if part not in decoder]
    parts = [part for name, part in named if "Attention" in name and not name.endswith("Layer")]  # which is a block
    assert parts, "no attention was found in the encoder"
    handles = [part.register_forward_hook(nothing) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _most_moved(model: Model, pixels: np.ndarray, box: tuple[float, ...], among: Tensor) -> int:
    """Which of some tokens moves most when the pixels that lie wholly in a box change."""
    top, left = (max(0, math.ceil(side)) for side in box[:2])
    bottom, right = (math.floor(side) for side in box[2:])
    changed = pixels.copy()
    changed[top:bottom, left:right] = (255, 0, 255)
    assert (changed != pixels).any()
    moved = (capture(model, changed, layers=0).at(0) - capture(model, pixels, layers=0).at(0)).float().norm(dim=1)
    moved[~among] = -1
    return int(moved.argmax())


def test_geometry_by_experiment(model: Model, tiny: ModuleType) -> None:
    """Changing the pixels of one patch of the original moves the token that our map names most, in each tile."""
    _placed(tiny, model)
    rng = np.random.default_rng(0)
    tried = 0
    with _quiet(model.network, tiny):
        for size in tiny.SIZES:
            pixels = _noise(size)
            states = capture(model, pixels, layers=0)
            for number, tile in enumerate(states.tokens.layout[0]):
                mine = torch.nonzero(states.tokens.tiles == number)[:, 0]
                for token in rng.permutation(mine.tolist())[:3].tolist():
                    box = states.tokens.box(token)
                    inside = max(0, min(box[2], size[0]) - max(box[0], 0)) * max(
                        0, min(box[3], size[1]) - max(box[1], 0)
                    )
                    if min(box[2] - box[0], box[3] - box[1]) < 3 or inside < 0.6 * (box[2] - box[0]) * (
                        box[3] - box[1]
                    ):
                        continue  # too small to change alone, or mostly padding
                    among = states.tokens.tiles == number
                    assert _most_moved(model, pixels, box, among) == token, (size, tile, box)
                    if len(mine) > 1:  # it could fail: the box of another token names that other one
                        other = next(t for t in mine.tolist() if t != token)
                        assert _most_moved(model, pixels, box, among) != other
                    tried += 1
    assert tried >= 10


def test_observing_changes_nothing(model: Model, tiny: ModuleType) -> None:
    prepared = prepare(model, [request_of(_noise(tiny.SIZES[1]), "What is it?")])
    inputs = model.accepted(prepared.inputs)
    with torch.no_grad():
        before = model.network(**inputs).logits
        capture(model, _noise(tiny.SIZES[1]), "What is it?")
        assert torch.equal(model.network(**inputs).logits, before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.blocks)


def test_a_layer_is_what_its_block_gives(model: Model, tiny: ModuleType) -> None:
    pixels = _noise(tiny.SIZES[1])
    prepared = prepare(model, [request_of(pixels, "What is it?")])
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
    states = capture(model, pixels, "What is it?", positions="all")
    for layer in range(1, model.n_layers + 1):
        torch.testing.assert_close(states.at(layer), given[layer][0], atol=1e-5, rtol=1e-4)
    ours = model.unembedding.logits(states.at(model.n_layers))
    if codes := list(model.adapter.codes(model.config)):  # which some models bar, and we always do
        logits[..., codes] = torch.finfo(logits.dtype).min
    torch.testing.assert_close(ours, logits, atol=1e-3, rtol=1e-3)


def test_alone_as_in_a_batch(model: Model, tiny: ModuleType) -> None:
    sizes = tiny.SIZES[:3]
    requests = [request_of(_noise(size, seed), "What is it?" + " A cat" * seed) for seed, size in enumerate(sizes)]
    together = capture_batch(model, requests, positions="all" if not model.adapter.beside_sequence else "visual")
    for request, states in zip(requests, together, strict=True):
        (alone,) = capture_batch(model, [request], positions="all" if not model.adapter.beside_sequence else "visual")
        assert torch.equal(alone.token_ids, states.token_ids)
        assert torch.equal(alone.tokens.kinds, states.tokens.kinds)
        torch.testing.assert_close(alone.vectors, states.vectors, atol=2e-4, rtol=1e-3)


def test_several_images(model: Model, tiny: ModuleType) -> None:
    if not getattr(tiny, "SEVERAL", True):
        pytest.skip(f"{model.adapter.family} takes one image")
    first, second = _noise(tiny.SIZES[0], 1), _noise(tiny.SIZES[1], 2)
    states = capture(model, [first, second], "Which is larger?", layers=0)
    sources = states.tokens.sources
    assert set(sources.tolist()) == {0, 1}
    assert sorted(sources.tolist()) == sources.tolist()
    if getattr(tiny, "PLACED", True):
        assert [tiles[0].grid.image_size for tiles in states.tokens.layout] == [tiny.SIZES[0], tiny.SIZES[1]]
    turned = capture(model, [second, first], "Which is larger?", layers=0)
    count = int((sources == 0).sum())
    if model.adapter.family not in ("llava_onevision",):  # one cuts several images otherwise than one
        torch.testing.assert_close(states.at(0)[:count], turned.at(0)[-count:], atol=1e-4, rtol=1e-3)


def test_a_generated_answer(model: Model, tiny: ModuleType) -> None:
    pixels = _noise(tiny.SIZES[0])
    states = capture(model, pixels, "What is it?", positions="answer", answer=3)
    assert 1 <= len(states) <= 3
    said = model.tokenizer.decode(states.token_ids)
    # Its first token is what the prompt's last state says.
    prompt = capture(model, pixels, "What is it?", positions="all", layers=model.n_layers)
    best = int(model.unembedding.logits(prompt.at(model.n_layers)[-1:])[0].argmax())
    assert best == int(states.token_ids[0])
    given = capture(model, pixels, "What is it?", positions="answer", answer=said)
    if torch.equal(given.token_ids, states.token_ids):
        torch.testing.assert_close(given.vectors, states.vectors)


@pytest.mark.parametrize("site", ["encoder", "projector input", "projector output"])
def test_sites_of_the_encoder(model: Model, tiny: ModuleType, site: str) -> None:
    if model.adapter.family in getattr(tiny, "NO_SITES", ()):
        pytest.skip("it has no such site")
    states = capture(model, _noise(tiny.SIZES[0]), layers="all" if site == "encoder" else 0, site=site)
    assert len(states) > 0
    assert states.site == site
    if site == "projector output":
        assert states.vectors.shape[-1] == model.d_model


def test_the_command_line_writes_a_page(model: Model, tiny: ModuleType, tmp_path: Path) -> None:
    """Three pictures at once, without a bank; the page's boxes are the map's."""
    for number, size in enumerate(tiny.SIZES[:3]):
        Image.fromarray(_noise(size, number)).save(tmp_path / f"picture{number}.png")
    out, layers = tmp_path / "out", "0" if model.adapter.beside_sequence else "0,-1"
    words = ["read", *(f"{tmp_path}/picture{n}.png" for n in range(3)), "--model", model.name, "--out", str(out)]
    assert main([*words, "--lens", "logit,embedding", "--layers", layers, "--k", "2"]) == 0
    readings = open_readings(out)
    drawn = document(readings)["images"]
    assert [image["name"] for image in drawn] == ["picture0", "picture1", "picture2"]
    for number, image in enumerate(drawn):
        tokens = capture(model, _noise(tiny.SIZES[number], number), layers=0).tokens
        assert len(image["positions"]) == len(tokens)
        boxes = np.frombuffer(base64.b64decode(image["boxes"]["base64"]), "<f4").reshape(-1, 4)
        for token in torch.nonzero(tokens.tiles >= 0)[:, 0].tolist():
            assert boxes[token].tolist() == pytest.approx(tokens.box(token), abs=1e-3)
        assert sorted(tile for view in image["views"] for tile in view["tiles"]) == list(range(len(tokens.layout[0])))
    assert (out / "page.html").stat().st_size > 10_000


def test_the_whole_road_with_a_bank(model: Model, tiny: ModuleType, tmp_path: Path) -> None:
    """A bank of its language model, and what LatentLens, LogitLens and EmbeddingLens say of its visual tokens."""
    bank = build_bank(model.name, [*SENTENCES], tmp_path / "bank")
    states = capture(model, _noise(tiny.SIZES[1]))
    for lens in (LatentLens(bank), LogitLens(model), EmbeddingLens(model)):
        readings = lens.read(states, k=2)
        assert len(readings) == len(states) * len(states.layers)
        assert readings.table["kind"].unique().to_pylist() == (
            ["patch"] if getattr(tiny, "PLACED", True) else ["query"]
        )
    codes = {model.tokenizer.convert_ids_to_tokens(code) for code in model.adapter.codes(model.config)}
    assert not codes & set(readings.table["token"].to_pylist())
    states.save(tmp_path / "kept.safetensors")
    again = open_states(tmp_path / "kept.safetensors")
    assert list(EmbeddingLens(model).read(again, k=2)) == list(readings)
