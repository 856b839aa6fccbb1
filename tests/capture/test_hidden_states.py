import json
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchlens.capture.capture import capture
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError, StatesError, StorageError
from patchlens.models.loading import load_model


@pytest.fixture(scope="module")
def states(tiny_llava, picture: Image.Image) -> HiddenStates:
    return capture(tiny_llava, picture, "What “is” it?", layers="0,3", positions="all")


@pytest.fixture
def saved(states: HiddenStates, tmp_path: Path) -> Path:
    return states.save(tmp_path / "states.safetensors")


def _same(a: HiddenStates, b: HiddenStates) -> bool:
    tensors = ("vectors", "positions", "token_ids", "visual")
    rest = ("layers", "grid", "image", "prompt", "provenance")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors) and all(
        getattr(a, name) == getattr(b, name) for name in rest
    )


def test_saved_and_opened_it_is_the_same(states: HiddenStates, saved: Path) -> None:
    opened = HiddenStates.open(saved)
    assert _same(opened, states)
    assert opened.image.pixels.tobytes() == states.image.pixels.tobytes()
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_bfloat16_and_text_alone(causal_folder, tmp_path: Path) -> None:
    made = capture(load_model(causal_folder(), dtype="bfloat16"), prompt="A cat", positions="text")
    opened = HiddenStates.open(made.save(tmp_path / "text.safetensors"))
    assert _same(opened, made)
    assert opened.vectors.dtype == torch.bfloat16
    assert opened.image is None


def test_saving_replaces(states: HiddenStates, saved: Path) -> None:
    saved.write_text("something else")
    states.save(saved)
    assert _same(HiddenStates.open(saved), states)


def test_nowhere_to_save(states: HiddenStates, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        states.save(tmp_path / "file" / "states.safetensors")


def test_a_disk_that_takes_no_such_file(states: HiddenStates, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"states\.safetensors failed: File too large.*ulimit"):
            states.save(tmp_path / "states.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_who_may_read_it_is_as_for_any_file(saved: Path) -> None:
    (saved.parent / "other").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((saved.parent / "other").stat().st_mode)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StatesError, match="no file"):
        HiddenStates.open(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_short(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StatesError, match="damaged, cut short"):
        HiddenStates.open(saved)


def test_a_safetensors_file_of_something_else(tmp_path: Path) -> None:
    save_file({"vectors": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(StatesError, match="its format is None"):
        HiddenStates.open(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", "[0]"),
        ("layers", "3"),
        ("layout", '[[{"grid": {"rows": 4}}]]'),
        ("layout", "[]"),
        ("layout", "[[], []]"),
        ("layers", '["x", "y"]'),
        ("layers", "[3, 0]"),
        ("provenance", "{}"),
        ("provenance", "[]"),
        ("prompt", "7"),
        ("prompt", "not json"),
        ("sources", '[{"name": "a"}]'),
        ("sources", '[{"name": 7, "source": null}]'),
        ("site", '"elsewhere"'),
        ("format", "patchlens hidden states 99"),
    ],
)
def test_edited(saved: Path, field: str, value: str) -> None:
    _edit(saved, {}, **{field: value})
    with pytest.raises(StatesError):
        HiddenStates.open(saved)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("source_0", lambda tensor: torch.zeros_like(tensor), "cannot identify image"),
        ("source_0", lambda tensor: tensor[:50], "truncated"),
        ("token_ids", lambda tensor: tensor[1:], "token_ids of shape"),
        ("token_ids", lambda tensor: tensor.float(), "token_ids of type"),
        ("kinds", lambda tensor: tensor[None], "kinds of shape"),
        ("kinds", lambda tensor: tensor.float(), "kinds of type"),
        ("kinds", lambda tensor: tensor + 50, "kinds outside"),
        ("tiles", lambda tensor: tensor + tensor.ge(0), "no place in the layout"),
        ("tiles", lambda tensor: tensor + 1, "patches without a tile"),
        ("tiles", lambda tensor: tensor * 0 - 1, "patches without a tile"),
        ("cells", lambda tensor: tensor + 16, "no place in the layout"),
        ("cells", lambda tensor: tensor[1:], "cells of shape"),
        ("seconds", lambda tensor: tensor[:, :1], "seconds of shape"),
        ("positions", lambda tensor: tensor[1:], "token_ids of shape"),
        ("vectors", lambda tensor: tensor[:1], "vectors of shape"),
        ("vectors", lambda tensor: tensor.int(), "vectors of shape"),
    ],
)
def test_edited_tensors(saved: Path, name: str, change: Callable[[Tensor], Tensor], told: str) -> None:
    _edit(saved, {name: change})
    with pytest.raises(StatesError, match=told):
        HiddenStates.open(saved)


def _edit(path: Path, changes: dict[str, Callable[[Tensor], Tensor]], **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() | metadata
    tensors |= {name: change(tensors[name]).contiguous() for name, change in changes.items()}
    save_file(tensors, path, metadata=metadata)


def test_the_header_is_plain_json(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["layers"]) == [0, 3]
    assert json.loads(metadata["provenance"])["kind"] == "hidden states"


def test_some_tokens_in_another_order(states: HiddenStates) -> None:
    some = states.take(torch.tensor([4, 1]))
    assert torch.equal(some.vectors, states.vectors[:, [4, 1]])
    assert some.positions.tolist() == [int(states.positions[4]), int(states.positions[1])]
    assert len(some.tokens) == len(some.token_ids) == 2
    with pytest.raises(OptionError, match="below their count"):
        states.take(torch.tensor([len(states)]))
