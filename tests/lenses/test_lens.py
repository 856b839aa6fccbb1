"""What holds for every lens, over the registry."""

import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from patchlens.axes import Float
from patchlens.bank.bank import Bank
from patchlens.capture.capture import capture
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import BankMismatch, NonFiniteStates, OptionError, StatesError
from patchlens.lenses.lens import Columns, Lens
from patchlens.lenses.reading import Readings, open_readings
from patchlens.lenses.registry import LENSES, make_lens
from patchlens.models.model import Model
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import KINDS, Tile
from patchlens.models.token_map import TokenMap


@pytest.fixture(scope="session", params=list(LENSES))
def lens(request: pytest.FixtureRequest, tiny_llava: Model, bank: Bank) -> Lens:
    return make_lens(request.param, tiny_llava, bank)


def test_one_reading_per_layer_and_patch(lens: Lens, states: HiddenStates) -> None:
    readings = lens.read(states, k=3)
    assert len(readings) == 5 * 16
    assert readings.layers == (0, 1, 2, 3, 4)
    assert readings.lenses == (lens.name,)
    assert readings.grids == {"image": states.grid}
    assert readings.images == {"image": states.image}
    places = [(one.layer, one.row, one.column) for one in readings]
    assert places == [(layer, row, column) for layer in range(5) for row in range(4) for column in range(4)]
    assert [one.position for one in readings][:16] == states.positions.tolist()


def test_candidates_are_ranked_and_say_what_they_are(lens: Lens, states: HiddenStates) -> None:
    for reading in lens.read(states, k=4):
        assert [candidate.rank for candidate in reading.candidates] == [1, 2, 3, 4]
        values = [one.logit if lens.name == "logit" else one.similarity for one in reading.candidates]
        assert None not in values
        assert values == sorted(values, reverse=True)
        for candidate in reading.candidates:
            assert candidate.token
            assert (candidate.sentence is None) == (lens.name != "latent")
            assert (candidate.similarity is None) == (lens.name == "logit")


def test_layers_read_apart_are_the_layers_read_together(lens: Lens, states: HiddenStates) -> None:
    together = lens.read(states)
    apart = Readings.join([lens.read(states, layers=layer) for layer in (0, 2, 4)])
    assert list(apart) == list(together.select(layer=[0, 2, 4]))
    assert list(lens.read(states, layers=[4, 0])) == list(together.select(layer=[0, 4]))


def test_text_positions_have_no_patch(lens: Lens, tiny_llava: Model, picture: Image.Image) -> None:
    everything = lens.read(capture(tiny_llava, picture, positions="all", layers=[2]), k=1)
    text = lens.read(capture(tiny_llava, picture, positions="text", layers=[2]), k=1)
    seen = [one for one in everything if one.row is not None]
    assert [(one.row, one.column) for one in seen] == [(row, column) for row in range(4) for column in range(4)]
    assert [one for one in everything if one.row is None] == list(text)
    assert len(text) == len(everything) - 16 > 0


def test_text_alone_has_no_image(tiny_causal: Model) -> None:
    states = capture(tiny_causal, prompt="The small red car", positions="text")
    readings = make_lens("embedding", tiny_causal).read(states, k=2)
    assert readings.images == {"text": None}
    assert readings.grids == {}
    assert readings.at(layer=0, position=1).row is None


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(lens: Lens, states: HiddenStates, k: int) -> None:
    with pytest.raises(OptionError, match=f"{k}"):
        lens.read(states, k=k)


def test_k_above_what_there_is(lens: Lens, states: HiddenStates) -> None:
    with pytest.raises(OptionError, match=r"1000000|1,000,000"):
        lens.read(states, k=1_000_000)


@pytest.mark.parametrize("layers", [7, [0, 7], []])
def test_a_layer_that_was_not_captured(lens: Lens, states: HiddenStates, layers: int | list[int]) -> None:
    with pytest.raises(OptionError, match=r"0, 1, 2, 3, 4|No layer"):
        lens.read(states, layers=layers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_numbers(lens: Lens, states: HiddenStates, value: float) -> None:
    vectors = states.vectors.clone()
    vectors[3, 1, 2] = value
    spoiled = replace(states, vectors=vectors)
    with pytest.raises(NonFiniteStates, match="layer 3"):
        lens.read(spoiled)
    assert len(lens.read(spoiled, layers=[0, 1, 2])) == 48


def test_states_of_another_width(lens: Lens, states: HiddenStates) -> None:
    with pytest.raises((StatesError, BankMismatch), match=r"32.*16|16.*32"):
        lens.read(replace(states, vectors=states.vectors[..., :16]))


def test_states_of_another_model(lens: Lens, tiny_llava: Model, bank: Bank, states: HiddenStates) -> None:
    other = replace(states, provenance=replace(states.provenance, model="other", fingerprint="f" * 64))
    with pytest.raises((StatesError, BankMismatch), match=r"other.*loaded in float16.*allow_other_model"):
        lens.read(other)
    willing = make_lens(lens.name, tiny_llava, bank, allow_other_model=True)
    assert list(willing.read(other)) == list(lens.read(states))


def test_states_of_the_encoder(lens: Lens, states: HiddenStates) -> None:
    with pytest.raises(StatesError, match="were taken at the encoder"):
        lens.read(replace(states, site="encoder"))


def test_readings_of_a_lens_come_back_from_disk(lens: Lens, states: HiddenStates, tmp_path: Path) -> None:
    readings = lens.read(states)
    back = open_readings(readings.save(tmp_path / "out"))
    assert list(back) == list(readings)
    assert back.provenance[0]["states"]["model"] == states.provenance.model


class Parrot(Lens):
    """Says one word of everything; stands for a lens whose search costs nothing."""

    name = "parrot"

    def _check(self, states: HiddenStates) -> None: ...

    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        words = pa.array(["word"] * (len(vectors) * k)).dictionary_encode()
        return {"word": words, "token": words}

    def _made_with(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("sources", "images"),
    [
        ([1, 0], ["b", "a"]),
        ([-1, 1, -1, 0, -1, -1], ["b", "b", "b", "a", "a", "a"]),
        ([-1, -1], ["a", "a"]),
        ([0, -1, 1, -1], ["a", "a", "b", "b"]),
    ],
)
def test_text_stands_with_the_last_image_before_it(states: HiddenStates, sources: list[int], images: list[str]) -> None:
    assert states.image is not None
    count = len(sources)
    several = replace(
        states,
        vectors=torch.ones(len(states.layers), count, 4),
        positions=torch.arange(count),
        token_ids=torch.zeros(count, dtype=torch.int64),
        tokens=replace(TokenMap.of_text(count), sources=torch.tensor(sources), layout=((), ())),
        sources=(replace(states.image, name="a"), replace(states.image, name="b")),
    )
    assert [one.image for one in Parrot().read(several, layers=0, k=1)] == images


def test_putting_together_a_real_image_takes_no_time(states: HiddenStates) -> None:
    tokens, layers = 576, tuple(range(33))
    large = replace(
        states,
        vectors=torch.ones(len(layers), tokens, 4),
        layers=layers,
        positions=torch.arange(tokens),
        token_ids=torch.zeros(tokens, dtype=torch.int64),
        tokens=TokenMap(
            kinds=torch.full((tokens,), KINDS.index("patch")),
            sources=torch.zeros(tokens, dtype=torch.int64),
            tiles=torch.zeros(tokens, dtype=torch.int64),
            cells=torch.arange(tokens),
            seconds=torch.full((tokens, 2), torch.nan),
            layout=((Tile(PatchGrid(24, 24, (64, 96), (0.0, 0.0, 64.0, 96.0))),),),
        ),
    )
    start = time.perf_counter()
    readings = Parrot().read(large)
    assert time.perf_counter() - start < 1  # measured: 40 ms
    assert readings.table.num_rows == 95_040
    assert readings.at(layer=32, row=23, column=1).position == 23 * 24 + 1


def test_several_sequences_read_at_once_are_as_read_one_by_one(lens: Lens, states: HiddenStates) -> None:
    few = states.take(torch.tensor([7, 2, 11]))
    other = replace(states, vectors=states.vectors.roll(1, dims=1))
    batch = [states, few, other]
    together = lens.read_batch(batch, k=3, layers=iter([0, 3]))
    assert [list(part) for part in together] == [list(lens.read(each, k=3, layers=[0, 3])) for each in batch]
    assert list(together[0]) != list(together[2])
    assert lens.read_batch([]) == []
