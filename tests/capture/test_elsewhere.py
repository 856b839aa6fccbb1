import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from patchlens.capture.capture import capture
from patchlens.capture.elsewhere import open_states
from patchlens.errors import StatesError
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.logit import LogitLens
from patchlens.models.loading import Model
from patchlens.views.document import document

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file as another program would write it: 2 layers × 6 tokens of width 32, and the JSON beside it."""

    def written(tensors: dict[str, torch.Tensor] | None = None, **about: Any) -> Path:
        torch.manual_seed(0)
        save_file({"vectors": torch.randn(2, 6, 32)} if tensors is None else tensors, tmp_path / "s.safetensors")
        fields = {"version": 1, "model": "somewhere/else", "layers": [4, 8], **about}
        (tmp_path / "s.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "cat.png")
        return tmp_path / "s.safetensors"

    return written


def test_vectors_alone_are_text(write: Write) -> None:
    states = open_states(write())
    assert (states.layers, states.provenance.model, len(states)) == ((4, 8), "somewhere/else", 6)
    assert not states.visual.any()
    assert states.positions.tolist() == list(range(6))


def test_text_from_elsewhere_can_be_kept(write: Write, tmp_path: Path) -> None:
    states = open_states(write())
    back = open_states(states.save(tmp_path / "kept.safetensors"))
    assert torch.equal(back.vectors, states.vectors)
    assert (back.layers, back.sources, len(back)) == ((4, 8), (), 6)
    assert back.tokens.having("text").all()
    assert (back.tokens.sources == -1).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_can_be_read(write: Write, tiny_llava: Model, dtype: torch.dtype) -> None:
    stored = torch.randn(2, 6, 32).to(dtype)
    together = open_states(write({"vectors": stored}))
    apart = open_states(write({"layer_04": stored[0].clone(), "layer_08": stored[1].clone()}))
    for states in (together, apart):
        assert torch.equal(states.vectors, stored.float())
        assert len(EmbeddingLens(tiny_llava).read(states, k=2)) == 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_stay_as_they_are(write: Write, tiny_llava: Model, dtype: torch.dtype) -> None:
    states = open_states(write({"vectors": torch.randn(2, 6, 32).to(dtype)}))
    assert states.vectors.dtype == dtype
    assert len(EmbeddingLens(tiny_llava).read(states, k=2)) == 12


def test_kinds_without_tiles(write: Write) -> None:
    assert open_states(write(kinds=["text", "special", *["answer"] * 4])).tokens.having("answer").sum() == 4
    states = open_states(write(kinds=["text", *["query"] * 5], source=[-1, 1, 1, 0, 0, 0], images=["cat.png"] * 2))
    assert states.tokens.layout == ((), ())


def test_a_tensor_per_layer(write: Write) -> None:
    tensors = {f"layer_{layer:02}": torch.full((3, 8), float(layer)) for layer in (8, 0, 12)}
    states = open_states(write(tensors, layers=None))
    assert states.layers == (0, 8, 12)
    assert states.at(12)[0, 0] == 12
    assert open_states(write(tensors, layers=[8])).layers == (8,)


def test_one_grid_over_one_image(write: Write, tiny_llava: Model) -> None:
    states = open_states(write(images=["cat.png"], grid={"rows": 2, "columns": 3}, prompt="Why?"))
    assert states.tokens.box(4) == (10.0, 10.0, 20.0, 20.0)
    for lens in (LogitLens(tiny_llava), EmbeddingLens(tiny_llava)):
        readings = lens.read(states, k=2)
        assert readings.at(layer=8, row=1, column=2).kind == "patch"
        assert document(readings)["images"][0]["views"][0]["rows"] == 2


def test_an_image_of_unknown_geometry_is_a_list(write: Write) -> None:
    states = open_states(write(images=[{"file": "cat.png", "name": "a cat"}]))
    assert states.tokens.having("query").all()
    assert states.sources[0].name == "a cat"


def test_a_whole_map(write: Write) -> None:
    wide, small = {"rows": 1, "columns": 2}, {"rows": 1, "columns": 1}
    tiles = [[{"grid": wide, "role": "tile"}, {"grid": small, "role": "thumbnail"}]]
    states = open_states(
        write(
            images=["cat.png"],
            tiles=tiles,
            kinds=["text", "patch", "patch", "filler", "patch", "answer"],
            source=[-1, 0, 0, 0, 0, -1],
            tile=[-1, 0, 0, -1, 1, -1],
            cell=[-1, 0, 1, -1, 0, -1],
            positions=[5, 6, 7, 8, 9, 10],
            token_ids=[1, 2, 2, 2, 2, 3],
        )
    )
    assert states.tokens.box(2) == (0.0, 15.0, 20.0, 30.0)
    assert states.tokens.box(4) == (0.0, 0.0, 20.0, 30.0)
    assert states.visual.tolist() == [False, True, True, False, True, False]
    assert (states.positions[0], states.token_ids[-1]) == (5, 3)


def test_what_we_captured_can_go_out_and_come_back(write: Write, tiny_llava: Model, picture: Image.Image) -> None:
    ours = capture(tiny_llava, picture, layers="0,4")
    region = list(ours.grid.region)
    path = write({"vectors": ours.vectors}, layers=[0, 4], images=["cat.png"], fingerprint=ours.provenance.fingerprint)
    picture.save(path.parent / "cat.png")
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"grid": {"rows": 4, "columns": 4, "region": region}}))
    back = open_states(path)
    lens = LogitLens(tiny_llava)
    assert [one.words for one in lens.read(back)] == [one.words for one in lens.read(ours)]
    assert back.grid == ours.grid


def test_our_own_files_open_too(tiny_llava: Model, picture: Image.Image, tmp_path: Path) -> None:
    ours = capture(tiny_llava, picture, layers=0)
    assert torch.equal(open_states(ours.save(tmp_path / "own.safetensors")).vectors, ours.vectors)


def test_another_model_by_its_fingerprint(write: Write, tiny_llava: Model) -> None:
    with pytest.raises(StatesError, match="somewhere/else"):
        LogitLens(tiny_llava).read(open_states(write(fingerprint="f" * 64)))


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"version": 2}, '"version": 1'),
        ({"model": None}, '"model"'),
        ({"lairs": [1]}, "the field 'lairs'. Known: version, model"),
        ({"layers": None}, "Expected 'vectors'"),
        ({"layers": [8, 4]}, "do not rise"),
        ({"layers": [4, 8, 9]}, r"shape \(2, 6, 32\)"),
        ({"layers": ["a", "b"]}, "whole numbers"),
        ({"layers": [0.7, 1.2]}, r"\[0.7, 1.2\]. Expected a list of whole numbers"),
        ({"layers": 8}, "are 8. Expected a list"),
        ({"layers": [-1, 8]}, "from 0 on"),
        ({"grid": {"rows": 2, "columns": 3}}, "one image, and 0"),
        ({"images": ["cat.png"], "grid": {"rows": 4, "columns": 4}}, "4 × 4 for 6 tokens"),
        ({"images": ["cat.png"], "grid": {"rows": 2}}, "columns"),
        ({"images": ["dog.png"]}, "no such file"),
        ({"kinds": ["patch"] * 6}, 'there are no "tiles"'),
        ({"kinds": ["smell"] * 6, "tiles": []}, 'kind "smell", and there are text, special'),
        ({"kinds": ["text"] * 5}, '"kinds" is 5 values, and a list of 6'),
        ({"kinds": "text"}, '"kinds" is "text", and a list of 6'),
        ({"kinds": ["text"] * 6, "source": [-1]}, '"source" is 1 values'),
        ({"kinds": ["query"] * 6, "source": [0.5] * 6, "images": ["cat.png"]}, "holds 0.5, and its values are whole"),
        (
            {"kinds": ["query"] * 6, "source": [0] * 5 + [1], "images": ["cat.png"]},
            "token 5 is of source 1.* there are 1",
        ),
        ({"kinds": ["query"] * 6, "tiles": [[], []], "images": ["cat.png"]}, "each of 1 images, and holds 2"),
        ({"positions": [-1, 0, 1, 2, 3, 4]}, "the position -1, and positions count from 0"),
        ({"positions": [1, 2]}, r"shape \(2,\) for 6"),
        ({"token_ids": [0.5] * 6}, "for 6 tokens"),
    ],
)
def test_what_does_not_fit(write: Write, about: dict[str, Any], told: str) -> None:
    with pytest.raises(StatesError, match=told):
        open_states(write(**about))


def test_one_layer_under_two_names(write: Write) -> None:
    tensors = {"layer_0": torch.zeros(3, 8), "layer_00": torch.ones(3, 8)}
    with pytest.raises(StatesError, match="two tensors for layer 0, 'layer_0' and 'layer_00'"):
        open_states(write(tensors, layers=None))


def test_files_that_are_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(StatesError, match="no file"):
        open_states(tmp_path / "none.safetensors")
    path = write()
    path.with_suffix(".json").write_text("{")
    with pytest.raises(StatesError, match="cannot be read as JSON"):
        open_states(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(StatesError, match=r"no s\.json beside it"):
        open_states(path)
    path.write_bytes(b"nothing")
    with pytest.raises(StatesError, match="damaged"):
        open_states(path)
    save_file({"weights": torch.zeros(1)}, path)
    path.with_suffix(".json").write_text('{"version": 1, "model": "m", "layers": [1]}')
    with pytest.raises(StatesError, match="holds weights"):
        open_states(path)
