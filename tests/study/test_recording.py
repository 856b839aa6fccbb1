import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from patchlens.bank.build import build_bank
from patchlens.capture.answering import answer_text
from patchlens.capture.capture import capture
from patchlens.errors import StudyError
from patchlens.evaluation.region import sample_region
from patchlens.inputs.image import open_image
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.latent import LatentLens
from patchlens.lenses.logit import LogitLens
from patchlens.models.loading import load_model
from patchlens.study.config import BankConfig, CaptionsConfig, ImagesConfig, StudyConfig
from patchlens.study.pictures import Picture, find_pictures
from patchlens.study.recording import Recorder, _content


def recorder(config: StudyConfig, folder: Path) -> Recorder:
    return Recorder(config, config.models[0], find_pictures(config.images), folder)


@pytest.fixture(scope="module")
def recorded(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    made = recorder(replace(config, captions=CaptionsConfig(max_tokens=4, count=3)), tmp_path_factory.mktemp("study"))
    made.run()
    return made


def test_what_is_recorded_is_what_lenses_say_of_the_region(
    recorded: Recorder, config: StudyConfig, bank_folder: Path
) -> None:
    model = load_model(config.models[0].name)
    lenses = {
        "latent": LatentLens(bank_folder),
        "half": LatentLens(bank_folder, share=0.5, seed=config.seed),
        "logit": LogitLens(model),
        "embedding": EmbeddingLens(model),
    }
    rows = [row for row in recorded.open().candidates.to_pylist() if row["judged"] and row["baseline"] is None]
    found = {(row["image"], row["lens"], row["layer"], row["rank"]): row for row in rows}
    assert len(found) == len(rows) == 5 * (3 * 3 + 1) * 5
    for picture in recorded._pictures:
        image = picture.open()
        states = capture(model, image, config.prompt, layers=[0, 2, 4])
        region = sample_region(image, states.tokens.layout[0], seed=config.seed)
        assert region is not None
        for label, lens in lenses.items():
            for layer in [2] if label == "embedding" else [0, 2, 4]:
                reading = lens.read(states).at(layer=layer, row=region.row, column=region.column)
                for candidate in reading.candidates:
                    row = found[image.name, label, layer, candidate.rank]
                    assert (row["word"], row["token"], row["bank_row"]) == (
                        candidate.word,
                        candidate.token,
                        candidate.bank_row,
                    )
                    assert (row["row"], row["column"], row["position"]) == (
                        region.row,
                        region.column,
                        reading.position,
                    )


def test_the_survey_and_the_random_rows(recorded: Recorder) -> None:
    table = recorded.open().candidates.to_pylist()
    positions: dict[tuple[str, str], set[int]] = {}
    for row in table:
        positions.setdefault((row["image"], row["lens"]), set()).add(row["position"])
    for (_, lens), seen in positions.items():
        assert len(seen) == (1 if lens == "half" else 4)  # the judged one and three others; judged alone
    for image in {image for image, _ in positions}:
        assert positions[image, "latent"] == positions[image, "logit"] == positions[image, "random"]
    random = [row for row in table if row["lens"] == "random"]
    assert {row["baseline"] for row in random} == {"random rows"}
    assert len({row["bank_row"] for row in random}) > 40


def test_states_are_measured_from_layer_zero(recorded: Recorder, config: StudyConfig) -> None:
    model = load_model(config.models[0].name)
    picture = recorded._pictures[0]
    states = capture(model, picture.open(), config.prompt, layers=[0, 2, 4], positions="all")
    rows = [row for row in recorded.open().states.to_pylist() if row["image"] == picture.name]
    assert {row["kind"] for row in rows} == {"visual", "text"}
    for row in rows:
        token = states.positions.tolist().index(row["position"])
        vector, start = states.at(row["layer"])[token], states.at(0)[token]
        assert row["norm"] == pytest.approx(float(vector.norm()), rel=1e-5)
        assert row["largest"] == pytest.approx(float(vector.abs().max()), rel=1e-5)
        assert row["drift"] == pytest.approx(float(torch.cosine_similarity(vector, start, dim=0)), abs=1e-5)
        assert bool(states.visual[token]) == (row["kind"] == "visual")


def test_captions_are_the_models_own(recorded: Recorder, config: StudyConfig) -> None:
    rows = recorded.open().captions.to_pylist()
    model = load_model(config.models[0].name)
    said = [answer_text(model, [p.open()], config.prompt, max_tokens=4) for p in recorded._pictures[:3]]
    assert [row["caption"] for row in rows] == said


class _Stop(Exception):
    pass


@pytest.mark.parametrize("after", range(1, 8, 2))
def test_stopped_anywhere_and_gone_on_it_is_the_same(
    recorded: Recorder, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchlens.study import recording

    calls, save = 0, recording.save_table

    def stopping(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise _Stop
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "save_table", stopping)
    with pytest.raises(_Stop):
        recorder(recorded.config, tmp_path).run()
    went_on = recorder(recorded.config, tmp_path)
    assert went_on.missing() > 0
    went_on.run()
    assert went_on.missing() == went_on.missing_captions() == 0
    files = {path.name: path.read_bytes() for path in recorded.folder.iterdir()}
    assert {path.name: path.read_bytes() for path in went_on.folder.iterdir()} == files


def test_nothing_is_read_twice(recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchlens.study import recording

    monkeypatch.setattr(recording, "load_model", lambda *arguments, **options: pytest.fail("the model was loaded"))
    recorder(recorded.config, recorded._study).run()


def test_more_pictures_keep_the_batches_that_are_whole(
    recorded: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(recorded.config, images=replace(recorded.config.images, count=4))
    recorder(few, tmp_path).run()
    more = recorder(recorded.config, tmp_path)
    assert (more.missing(), more.missing_captions()) == (1, 0)
    more.run()
    assert more.open().candidates.equals(recorded.open().candidates)


def test_records_of_two_banks_are_never_mixed(
    config: StudyConfig, sentences: tuple[str, ...], bank_folder: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(bank_folder, tmp_path / "bank")
    models = (replace(config.models[0], bank=str(here)),)
    few = replace(config, models=models, images=replace(config.images, count=2))
    recorder(few, tmp_path / "study").run()
    shutil.rmtree(here)
    build_bank(config.models[0].name, sentences[:5], here, per_token=2)
    for images in (config.images, few.images):  # half read, and read to the end
        with pytest.raises(StudyError, match=r"another bank fingerprints.*never mixed"):
            recorder(replace(few, images=images), tmp_path / "study").run()


def test_a_bank_of_the_studys_own(config: StudyConfig, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("A red car.\nA blue boat on the sea.\nThe old tree.\nA small dog.\n")
    bank = BankConfig(label="mine", corpus=str(tmp_path / "corpus.txt"), per_token=2, share=0.5, layers=(1, 3))
    latent = replace(config.lenses[0], bank="mine")
    made = recorder(
        replace(config, banks=(bank,), lenses=(latent,), images=replace(config.images, count=2)), tmp_path / "study"
    )
    assert made.missing_banks() == ["mine"]
    assert made.probe() > 0  # without the bank that is not there yet
    made.run()
    assert made.missing_banks() == []
    assert {row["context_layer"] for row in made.open().candidates.to_pylist() if row["baseline"] is None} <= {1, 3}
    assert list(made.made()["bank_fingerprints"]) == ["latent"]


def test_a_bank_of_the_studys_own_follows_seed_and_corpus(config: StudyConfig, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A red car.\nA blue boat on the sea.\n")
    bank = BankConfig(label="mine", corpus=str(corpus), share=0.5)
    whole = replace(config, banks=(replace(bank, share=1.0),), lenses=(replace(config.lenses[0], bank="mine"),))
    part = replace(whole, banks=(bank,))

    def folder(study: StudyConfig, label: str = "tiny") -> Path:
        _content.cache_clear()
        model = replace(study.models[0], label=label)
        return Recorder(study, model, [], tmp_path)._bank_folder("mine")

    assert folder(whole) == folder(replace(whole, seed=1))
    assert folder(part) != folder(replace(part, seed=1))
    assert folder(whole, "模型一") != folder(whole, "模型二")
    before = folder(whole)
    corpus.write_text("Another one.\n")
    assert folder(whole) != before


def test_different_words(config: StudyConfig, tmp_path: Path) -> None:
    made = recorder(replace(config, unique="word", images=replace(config.images, count=2)), tmp_path)
    made.run()
    said: dict[tuple[object, ...], list[str]] = {}
    for row in made.open().candidates.to_pylist():
        if row["baseline"] is None:
            key = (row["image"], row["lens"], row["layer"], row["position"])
            said.setdefault(key, []).append(row["word"].lower())
    assert all(len(set(words)) == len(words) for words in said.values())


def test_pictures_without_a_region_are_named_and_left_out(
    llava_folder: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    model = replace(config.models[0], name=str(llava_folder("clip", "llama", image_size=16)), bank=None)
    few = replace(config, models=(model,), lenses=(replace(config.lenses[1]),), baselines=())
    made = recorder(few, tmp_path)
    made.run()
    records = made.open()
    assert records.regions["tile"].null_count == records.regions.num_rows == 5
    assert records.candidates.num_rows == 0


def test_pictures_are_found_by_name_and_content(pictures: Path, tmp_path: Path) -> None:
    found = find_pictures(ImagesConfig(folder=pictures, first=1, count=3))
    assert [picture.name for picture in found] == ["picture-1", "picture-2", "picture-3"]
    assert all(isinstance(picture, Picture) and picture.truth is None for picture in found)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "a.jpg")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "a.json").write_text("{}")  # of neither: two pictures are called so
    both = find_pictures(ImagesConfig(folder=tmp_path))
    assert [picture.truth for picture in both] == [None, None]
    assert [picture.name for picture in both] == ["a.jpg", "a.png"]
    assert both[0].key != both[1].key
    assert both[1].open().sha256 == open_image(tmp_path / "a.png").sha256
