import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import build as module
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import auto_layers, build_bank
from patchlens.errors import CorpusError, ModelNotFound, NonFiniteStates, OptionError, StorageError
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.search.exact import ExactIndex
from reference.contexts import contexts, states


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bank_equals_the_slow_way(tiny_causal: Model, tmp_path: Path) -> None:
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank", per_token=1000, dtype="float32")
    expected = sorted(contexts(tiny_causal.tokenizer, list(SENTENCES)).values())
    rows = [bank.context(row) for row in range(len(bank))]
    assert [(SENTENCES.index(context.sentence), context.position) for context in rows] == expected
    for layer in bank.layers:
        slow = torch.stack([states(tiny_causal, SENTENCES[number], layer)[at] for number, at in expected])
        slow = torch.nn.functional.normalize(slow, dim=-1)
        torch.testing.assert_close(bank.vectors(layer), slow, atol=1e-5, rtol=0)
    bank.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_each_stored_type_is_unit_length_and_finds_itself(tiny_llava: Model, tmp_path: Path, dtype: str) -> None:
    bank = build_bank(tiny_llava, SENTENCES, tmp_path / "bank", dtype=dtype)
    bank.verify()
    for layer in bank.layers:
        vectors = bank.vectors(layer).float()
        distinct = torch.unique(vectors, dim=0, return_inverse=True)[1]
        matches = ExactIndex(bank).search(vectors * 7, k=1)
        assert torch.all(matches.similarities == 1)
        # A row that has an equal one before it finds that one.
        first = torch.tensor([int((distinct == group).nonzero()[0]) for group in distinct])
        assert torch.equal(matches.rows[:, 0], first)
        assert torch.all(matches.layers == layer)


@pytest.mark.parametrize("bos", [True, False])
def test_the_same_inputs_give_the_same_bytes(causal_folder: Callable[..., Path], tmp_path: Path, bos: bool) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(SENTENCES))
    one = build_bank(load_model(causal_folder("llama", bos=bos)), path, tmp_path / "one", seed=3)
    other = build_bank(str(causal_folder("llama", bos=bos)), str(path), tmp_path / "deep" / "other", seed=3)
    assert content(one.folder) == content(other.folder)


def test_padding_side_changes_no_row(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    left, right = (
        build_bank(causal_folder("qwen2", padding_side=side), SENTENCES, tmp_path / side) for side in ("left", "right")
    )
    files = content(left.folder), content(right.folder)
    for name in files[0].keys() - {"bank.json"}:  # which names the model's folder
        assert files[0][name] == files[1][name]


def test_provenance_says_how(tiny_causal: Model, tmp_path: Path) -> None:
    bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank", layers="1,-1", per_token=2, words="final", seed=5)
    assert bank.layers == (1, 4)
    assert bank.provenance.kind == "bank"
    assert bank.provenance.settings == {
        "per_token": 2,
        "choose": "reservoir",
        "words": "final",
        "skip_positions": None,
        "seed": 5,
        "max_positions": 512,
        "layers": [1, 4],
        "dtype": "float16",
        "compute_dtype": "float32",
    }
    assert bank.provenance.created is None


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (1, (1,)),
        (2, (1,)),
        (6, (1, 2, 3, 4, 5)),
        (7, (1, 2, 3, 4, 5, 6)),
        (8, (1, 2, 4, 6, 7)),
        (28, (1, 2, 4, 8, 16, 24, 26, 27)),
        (32, (1, 2, 4, 8, 16, 24, 30, 31)),
    ],
)
def test_the_papers_layers(n_layers: int, expected: tuple[int, ...]) -> None:
    assert auto_layers(n_layers) == expected


def test_an_existing_bank_is_replaced_only_when_asked(tiny_causal: Model, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    build_bank(tiny_causal, SENTENCES, out, per_token=1)
    before = content(out)
    with pytest.raises(OptionError, match="not empty"):
        build_bank(tiny_causal, SENTENCES, out)
    assert content(out) == before
    assert len(build_bank(tiny_causal, SENTENCES, out, overwrite=True)) == 170
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("dear")
    with pytest.raises(OptionError, match=r"holds no bank\.json"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "photos", overwrite=True)
    assert content(tmp_path / "photos") == {"holiday.jpg": b"dear"}


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"layers": "9"}, OptionError, "has 4 blocks"),
        ({"layers": []}, OptionError, "layers"),
        ({"dtype": "int4"}, OptionError, "dtype is 'int4'.*float16, bfloat16, float32"),
        ({"per_token": 0}, OptionError, "per_token is 0"),
        ({"choose": "best"}, OptionError, "choose is 'best'"),
        ({"corpus": []}, CorpusError, "no sentence"),
        ({"corpus": "absent.txt"}, CorpusError, "no such file"),
        ({"corpus": ["a" * 1_000_000]}, CorpusError, "1,000,000 characters"),
        ({"model": "no/such/model/anywhere"}, ModelNotFound, "no/such/model"),
    ],
)
def test_bad_input_leaves_nothing(
    tiny_causal: Model, tmp_path: Path, options: dict[str, object], error: type[Exception], told: str
) -> None:
    given = {"model": tiny_causal, "corpus": SENTENCES} | options
    with pytest.raises(error, match=told):
        build_bank(out=tmp_path / "deep" / "bank", **given)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_states_are_not_finite(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = load_model(causal_folder("llama"))
    with torch.no_grad():
        model.blocks[1].self_attn.o_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteStates, match="layer 2"):
        build_bank(model, SENTENCES, tmp_path / "bank")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["plan", "run"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(tiny_causal: Model, tmp_path: Path, stage: str, stop: type[BaseException]) -> None:
    def interrupt(at: str, done: int, total: int) -> None:
        if at == stage:
            raise stop

    with pytest.raises(stop):
        build_bank(tiny_causal, SENTENCES, tmp_path / "deep" / "bank", report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_at_any_file_leaves_nothing_or_everything(
    tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the n-th call that touches the disk, for every n until the build runs through."""
    calls = 0
    for name in ("mkdir", "fsync", "rename", "replace", "posix_fallocate", "open"):
        real = getattr(os, name)

        def counted(*args: object, _real: Callable[..., object] = real, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return _real(*args, **kwargs)

        monkeypatch.setattr(os, name, counted)
    for stop_at in range(1, 100):
        calls = 0
        try:
            build_bank(tiny_causal, SENTENCES[:2], tmp_path / f"{stop_at}")
        except KeyboardInterrupt:
            if (tmp_path / f"{stop_at}").exists():  # it came after the last step
                open_bank(tmp_path / f"{stop_at}").verify()
        else:
            break
    else:
        pytest.fail("the build never ran through")
    assert stop_at > 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_noticed_before_the_model_runs(
    tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    stages: list[str] = []
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"bank failed.*Make space"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "bank", report=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"plan"}
    assert list(tmp_path.iterdir()) == []


def test_no_space_while_tables_are_written(tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "bank")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        build_bank(tiny_causal, SENTENCES, tmp_path / "bank")


def test_a_left_over_of_a_killed_build_is_no_obstacle(tiny_causal: Model, tmp_path: Path) -> None:
    (tmp_path / f".bank.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".bank.{os.getpid()}.tmp" / "half").write_text("half")
    bank: Bank = build_bank(tiny_causal, SENTENCES, tmp_path / "bank")
    assert "half" not in content(bank.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
