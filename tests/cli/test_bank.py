import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from patchlens.bank.bank import open_bank
from patchlens.models.embedded import Embedded


@pytest.fixture
def model(causal_folder: Callable[..., Path]) -> Path:
    return causal_folder("llama")


@pytest.fixture
def bank(run, model: Path, corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "bank"
    assert run("bank", "build", "--model", model, "--corpus", corpus, "--out", out).status == 0
    return out


def test_build_passes_its_options_on(run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    ended = run(
        *("bank", "build", "-m", model, "-c", corpus, "-o", out, "--layers", "0,2", "--per-token", 3),
        *("--choose", "first", "--words", "final", "--skip-positions", 2, "--dtype", "float32", "--seed", 7),
    )
    assert ended.status == 0, ended.err
    assert "layers 0, 2; 32 × float32" in ended.out
    opened = open_bank(out)
    expected = {"per_token": 3, "choose": "first", "words": "final", "skip_positions": 2, "seed": 7}
    assert expected.items() <= opened.provenance.settings.items()
    assert min(opened.contexts["position"].to_pylist()) == 2


def test_build_from_standard_input(run, start, model: Path, corpus: Path, tmp_path: Path) -> None:
    with corpus.open() as sentences:
        process = start("bank", "build", "-m", model, "-c", "-", "-o", tmp_path / "piped", stdin=sentences)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert run("bank", "build", "-m", model, "-c", corpus, "-o", tmp_path / "read").status == 0
    piped, read = open_bank(tmp_path / "piped"), open_bank(tmp_path / "read")
    assert piped.manifest.corpus == read.manifest.corpus
    assert piped.context(3).source.startswith("stdin:")


def test_build_as_json(run, model: Path, corpus: Path, tmp_path: Path) -> None:
    told = run("bank", "build", "-m", model, "-c", corpus, "-o", tmp_path / "bank", "--json").json
    assert told["rows"] == len(open_bank(tmp_path / "bank"))
    assert told["seconds"] > 0


def test_build_says_what_it_skipped(run, model: Path, corpus: Path, tmp_path: Path) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\n\xff\n")
    words = ("bank", "build", "-m", model, "-c", corpus, "-o", tmp_path / "bank")
    ended = run(*words, "--strict")
    assert (ended.status, "corpus.txt:9" in ended.err) == (2, True)
    ended = run(*words, "--json")
    assert ended.json["corpus"]["skipped"] == 1
    assert ended.err.splitlines()[-1].startswith("Skipped: 1 not UTF-8 (first: corpus.txt:9")


def test_build_reads_a_column_and_shares_the_work(run, model: Path, tmp_path: Path, sentences: tuple[str, ...]) -> None:
    table = tmp_path / "corpus.tsv"
    table.write_text("id\tsays\n" + "".join(f"{number}\t{text}\n" for number, text in enumerate(sentences)))
    words = ("bank", "build", "-m", model, "-c", table, "--column", "says", "--json")
    one = run(*words, "-o", tmp_path / "one").json
    two = run(*words, "-o", tmp_path / "two", "--workers", 2).json
    assert one["corpus"] == two["corpus"]
    assert one["corpus"]["sentences"] == len(sentences)


def test_a_build_that_goes_on_with_other_options(run, model: Path, corpus: Path, tmp_path: Path) -> None:
    words = ("bank", "build", "-m", model, "-c", corpus, "-o", tmp_path / "bank")
    with patch("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000)):
        ended = run(*words)
    assert ended.status == 2
    assert "free on that disk" in ended.err
    assert f"What was done is kept in {tmp_path}/.bank.build; the same command goes on" in ended.err
    ended = run(*words, "--seed", 4)
    assert (ended.status, "seed: 0 there, 4 here" in ended.err) == (2, True)
    assert run(*words).status == 0


def test_plan(run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchlens.bank.build.probe", lambda *_: 50.0)
    words = ("-m", model, "-c", corpus, "--per-token", 3, "--dtype", "int8")
    ended = run("bank", "plan", *words)
    assert ended.status == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    told = run("bank", "plan", *words, "--json").json
    built = run("bank", "build", *words, "-o", tmp_path / "bank", "--json").json
    assert told["rows"] == built["rows"]
    assert {name: told[name] for name in built["corpus"] if name != "sha256"} == {
        name: count for name, count in built["corpus"].items() if name != "sha256"
    }
    assert told["seconds"] == told["prefixes_run"] / 50
    assert 0 < told["bytes"] < built["bytes"]
    for said in (f"{told['rows']:,}", f"{told['prefixes_run']:,} prefixes", "about 3 s", "MB in float8_e4m3fn"):
        assert said in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "corpus.txt"]


def test_info(run, bank: Path) -> None:
    ended = run("bank", "info", bank)
    assert ended.status == 0
    assert "8 sentences" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    assert run("bank", "info", bank, "--json").json == open_bank(bank).info()


def test_info_of_an_embedded_model(run, storybook: Embedded) -> None:
    told = run("bank", "info", "storybook", "--json").json
    assert told["settings"]["per_token"] == 4


def test_verify_against_the_model(run, bank: Path, model: Path, causal_folder: Callable[..., Path]) -> None:
    ended = run("bank", "verify", bank, "--model", model)
    assert (ended.status, ended.err.count("Computing rows again")) == (0, 1), ended.err
    assert f"Rows computed again with {model} are the same." in ended.out
    ended = run("bank", "verify", bank, "--model", causal_folder("qwen2"))
    assert ended.status == 2
    assert "was built with" in ended.err


def test_verify(run, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("bank", "verify", bank)
    assert ended.status == 0
    assert "whole" in ended.out
    vectors = sorted(bank.glob("layer_*.safetensors"))[0]
    content = bytearray(vectors.read_bytes())
    content[-3] ^= 1
    vectors.write_bytes(content)
    monkeypatch.setattr("patchlens.bank.format.HASHED_BYTES", 0)  # opening reads no large file
    assert run("bank", "info", bank).status == 0
    ended = run("bank", "verify", bank)
    assert (ended.status, ended.out) == (2, "")
    assert vectors.name in ended.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--per-token", 0), "per_token"),
        (("--choose", "best"), "choose"),
        (("--words", "long"), "words"),
        (("--skip-positions", -1), "skip_positions"),
        (("--dtype", "int4"), "int4"),
        (("--workers", 0), "workers"),
        (("--launcher", "mpi"), "mpi"),
        (("--column", "says"), "column"),
        (("--layers", "9"), "Layer 9"),
        (("--corpus", "/nowhere.txt"), "nowhere.txt"),
        (("--model", "/nowhere"), "nowhere"),
    ],
)
def test_bad_input_leaves_nothing(
    run, model: Path, corpus: Path, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    ended = run("bank", "build", "-m", model, "-c", corpus, "-o", tmp_path / "bank", *words)
    assert (ended.status, ended.out) == (2, "")
    assert says in ended.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [corpus]


def test_something_in_the_way(run, model: Path, corpus: Path, bank: Path) -> None:
    words = ("bank", "build", "-m", model, "-c", corpus, "-o", bank, "--seed", 1)
    assert run(*words).status == 2
    assert run("bank", "info", bank, "--json").json["settings"]["seed"] == 0
    assert run(*words, "--overwrite").status == 0
    assert run("bank", "info", bank, "--json").json["settings"]["seed"] == 1


def test_no_such_bank(run, tmp_path: Path) -> None:
    ended = run("bank", "info", tmp_path / "none")
    assert ended.status == 2
    assert "no such folder" in ended.err


def test_an_empty_corpus(run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ended = run("bank", "build", "-m", model, "-c", empty, "-o", tmp_path / "bank")
    assert ended.status == 2
    assert "no sentence" in ended.err
    assert list(tmp_path.iterdir()) == [empty]
