import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from patchlens import storage
from patchlens.bank.build import build_bank
from patchlens.lenses.reading import open_readings
from patchlens.models.embedded import Embedded


@pytest.fixture(scope="module")
def model(llava_folder: Callable[..., Path]) -> Path:
    return llava_folder("clip", "llama")


@pytest.fixture(scope="module")
def bank(model: Path, sentences: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bank(model, sentences, tmp_path_factory.mktemp("banks") / "bank").folder


def test_three_lenses_over_a_picture(run, model: Path, bank: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    ended = run("read", scene, "--model", model, "--bank", bank, "--out", out)
    assert ended.status == 0, ended.err
    assert max(map(len, ended.out.splitlines()[:-2])) <= 80
    assert f"Page      {out / 'page.html'}\n" in ended.out
    readings = open_readings(out)
    assert readings.lenses == ("latent", "logit", "embedding")
    assert readings.layers == (0, 1, 2, 3, 4)
    assert list(readings.images) == ["scene"]
    assert len(readings) == 3 * 5 * 16
    assert len(readings.at(lens="latent", layer=2, row=1, column=3).words) == 5
    assert "<script" in (out / "page.html").read_text()


@pytest.mark.parametrize("language_model", ["llama", "qwen2", "olmo2"])
@pytest.mark.parametrize("encoder", ["clip", "siglip", "dinov2"])
def test_every_encoder_with_every_language_model(
    run, llava_folder, sentences: tuple[str, ...], scene: Path, tmp_path: Path, encoder: str, language_model: str
) -> None:
    folder, corpus = llava_folder(encoder, language_model), tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences))
    assert run("bank", "build", "--model", folder, "--corpus", corpus, "--out", tmp_path / "bank").status == 0
    ended = run("read", scene, "--model", folder, "--bank", tmp_path / "bank", "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert len(open_readings(tmp_path / "out")) == 3 * 5 * 16
    assert (tmp_path / "out" / "page.html").is_file()


def test_lenses_without_a_bank_and_json(run, model: Path, scene: Path, tmp_path: Path) -> None:
    ended = run(
        *("read", scene, "-m", model, "-o", tmp_path / "out", "--lens", "logit, embedding", "--layers", "0,-1"),
        *("--k", 2, "--prompt", "What is it?", "--json"),
    )
    told = ended.json
    assert told["lenses"] == ["logit", "embedding"]
    assert told["layers"] == [0, 4]
    assert told["bank"] is None
    readings = open_readings(told["readings"])
    assert len(readings.at(lens="logit", layer=4, row=0, column=0).words) == 2
    assert readings.provenance[0]["prompt"] == "What is it?"
    assert Path(told["page"]).is_file()


def test_an_embedded_model_has_its_own_bank(run, storybook: Embedded, scene: Path, tmp_path: Path) -> None:
    told = run("read", scene, "--model", "storybook", "--out", tmp_path / "out", "--json").json
    assert told["lenses"] == ["latent", "logit", "embedding"]
    assert Path(told["bank"]).parent == tmp_path / "home" / "banks"


def test_two_pictures_of_one_name(run, model: Path, scene: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "scene.png"
    other.parent.mkdir()
    Image.new("RGB", (40, 40), "red").save(other)
    told = run("read", scene, other, "-m", model, "-o", tmp_path / "out", "--lens", "logit", "--json").json
    assert told["images"] == ["scene", "scene (2)"]


def test_what_was_written_is_replaced_only_when_asked(run, model: Path, scene: Path, tmp_path: Path) -> None:
    words = ("read", scene, "-m", model, "-o", tmp_path / "out", "--lens", "logit", "--layers", "0")
    assert run(*words).status == 0
    ended = run(*words)
    assert ended.status == 2
    assert "exists and is not empty" in ended.err
    assert run(*words, "--overwrite").status == 0
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    ended = run("read", scene, "-m", model, "-o", other, "--lens", "logit", "--overwrite")
    assert ended.status == 2
    assert [path.name for path in other.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("{folder}/nothing.png",), "nothing.png"),
        (("{folder}/broken.png",), "broken.png"),
        (("--k", "0"), "at least 1"),
        (("--k", "1000000"), "Choose k from 1 to"),
        (("--lens", "latent,looking"), "'looking'"),
        (("--lens", ","), "No lens"),
        (("--layers", "0,5"), "Layer 5"),
        (("--layers", "deep"), "'deep'"),
        (("--bank", "{folder}/none"), "none"),
        (("--model", "{folder}/none"), "none"),
        (("--dtype", "int3"), "int3"),
        (("--device-map", "cuda:77"), "cuda:77"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    run, model: Path, bank: Path, scene: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = sorted(tmp_path.iterdir())
    given = [word.format(folder=tmp_path) for word in words]
    ended = run("read", scene, "-m", model, "-b", bank, "-o", tmp_path / "out", *given)
    assert (ended.status, ended.out) == (2, "")
    assert says in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert sorted(tmp_path.iterdir()) == before


def test_the_latent_lens_needs_a_bank(run, model: Path, scene: Path, tmp_path: Path) -> None:
    ended = run("read", scene, "-m", model, "-o", tmp_path / "out")
    assert ended.status == 2
    assert "needs a bank" in ended.err


def test_a_bank_of_another_model(run, llava_folder, bank: Path, scene: Path, tmp_path: Path) -> None:
    words = ("read", scene, "-m", llava_folder("clip", "olmo2"), "-b", bank, "-o", tmp_path / "out")
    ended = run(*words)
    assert ended.status == 2
    assert "was built with" in ended.err
    assert not (tmp_path / "out").exists()
    assert run(*words, "--allow-other-model", "--lens", "latent", "--layers", "1").status == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_when_the_disk_refuses(
    run, model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, "rename", refuse)
    ended = run("read", scene, "-m", model, "-o", tmp_path / "new" / "out", "--lens", "logit")
    assert (ended.status, ended.out) == (2, "")
    assert os.strerror(number) in ended.err
    assert list(tmp_path.iterdir()) == [scene]


def test_an_answer_is_read_too(run, model: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run("read", scene, "-m", model, "-o", out, "--lens", "logit", "--layers", "0,4", "--answer", 3)
    assert ended.status == 0, ended.err
    readings = open_readings(out)
    said = readings.select(kind="answer")
    assert 1 <= len(said) / 2 <= 3
    assert len(readings) - len(said) == 2 * 16


def test_a_raw_prompt_and_text_positions(run, model: Path, scene: Path, tmp_path: Path) -> None:
    ended = run(
        *("read", scene, "-m", model, "-o", tmp_path / "out", "--lens", "logit", "--layers", 1),
        *("--prompt", "A cat <image> sleeps", "--raw", "--positions", "text"),
    )
    assert ended.status == 0, ended.err
    assert set(open_readings(tmp_path / "out").table["kind"].to_pylist()) == {"text", "special"}
    ended = run("read", scene, "-m", model, "-o", tmp_path / "no", "--lens", "logit", "--positions", "smell")
    assert (ended.status, "visual, text, answer, all" in ended.err) == (2, True)


def test_hidden_states_from_a_file(run, model: Path, scene: Path, tmp_path: Path) -> None:
    from patchlens.capture.capture import capture
    from patchlens.models.loading import load_model

    capture(load_model(model), scene, layers="1,3").save(tmp_path / "kept.safetensors")
    ended = run(
        *("read", tmp_path / "kept.safetensors", "-m", model, "-o", tmp_path / "out", "--lens", "logit"),
        *("--layers", "3"),
    )
    assert ended.status == 0, ended.err
    assert open_readings(tmp_path / "out").layers == (3,)
    ended = run(
        *("read", tmp_path / "kept.safetensors", "-m", model, "-o", tmp_path / "no", "--lens", "logit"),
        *("--layers", 2),
    )
    assert (ended.status, "1, 3" in ended.err) == (2, True)


def test_a_recording_for_a_model_that_hears_nothing(run, model: Path, tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "hum.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 1600)
    ended = run("read", tmp_path / "hum.wav", "-m", model, "-o", tmp_path / "out", "--lens", "logit")
    assert ended.status == 2
    assert "Cannot play the recording 'hum'" in ended.err


def test_two_files_of_hidden_states(run, model: Path, scene: Path, tmp_path: Path) -> None:
    from patchlens.capture.capture import capture
    from patchlens.models.loading import load_model

    loaded = load_model(model)
    for name in ("a", "b"):
        capture(loaded, scene, name, layers=1).save(tmp_path / f"{name}.safetensors")
        capture(loaded, None, name, positions="all", layers=1).save(tmp_path / f"text_{name}.safetensors")
    both = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    ended = run("read", *both, "-m", model, "-o", tmp_path / "out", "--lens", "logit", "--layers", 1)
    assert ended.status == 0, ended.err
    assert list(open_readings(tmp_path / "out").images) == ["scene", "scene (2)"]
    ended = run("read", *both, "-m", model, "-o", tmp_path / "no", "--lens", "logit", "--layers", 1, "--prompt", "Why?")
    assert (ended.status, "have theirs already" in ended.err) == (2, True)
    texts = (tmp_path / "text_a.safetensors", tmp_path / "text_b.safetensors")
    ended = run("read", *texts, "-m", model, "-o", tmp_path / "no", "--lens", "logit", "--layers", 1)
    assert (ended.status, "Read them one at a time" in ended.err) == (2, True)


def test_an_answer_is_read_with_whatever_was_asked_for(run, model: Path, scene: Path, tmp_path: Path) -> None:
    options = ("--lens", "logit", "--layers", 1, "--positions", "text", "--answer", 2)
    ended = run("read", scene, "-m", model, "-o", tmp_path / "out", *options)
    assert ended.status == 0, ended.err
    assert "answer" in open_readings(tmp_path / "out").table["kind"].unique().to_pylist()
    assert run("read", scene, "-m", model, "-o", tmp_path / "no", "--lens", "logit", "--answer", -3).status == 2


def test_a_folder_is_a_video(run, model: Path, scene: Path, tmp_path: Path) -> None:
    (film := tmp_path / "walk").mkdir()
    (film / "1.png").write_bytes(scene.read_bytes())
    ended = run("read", film, "-m", model, "-o", tmp_path / "out", "--lens", "logit")
    assert ended.status == 2
    assert "Cannot show the video 'walk'" in ended.err
