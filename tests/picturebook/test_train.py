import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from patchlens.models.loading import load_model
from patchlens.picturebook import EMBEDDED, parts, train
from patchlens.picturebook.evaluate import captions
from patchlens.picturebook.scene import draw, scenes
from patchlens.picturebook.world import COLORS, THINGS


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(EMBEDDED.folder)


def test_the_shipped_tokenizer_is_the_one_that_training_makes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert parts.train_tokenizer(0).get_vocab() == tokenizer.get_vocab()


def test_two_steps_of_each_part_make_a_model_that_loads(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LANGUAGE", "ENCODER", "PROJECTOR"):
        monkeypatch.setattr(train, name, replace(getattr(train, name), steps=2))
    for name in ("_ROWS", "_PICTURES", "_CAPTIONS"):
        monkeypatch.setattr(train, name, 2)
    lines: list[str] = []
    monkeypatch.setattr(train, "say", lines.append)
    tokenizer.save_pretrained(tmp_path / "tokenizer-0")
    language_model = train.train_language(tmp_path, 0)
    encoder = train.train_encoder(tmp_path, 0)
    model = train.train_projector(tmp_path, 0, encoder, language_model)
    for part, trained in ((model.model.language_model, language_model.model), (model.model.vision_tower, encoder)):
        after = part.state_dict()
        assert all(torch.equal(weight, after[name]) for name, weight in trained.state_dict().items())
    parts.save(model, tokenizer, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.n_layers, loaded.adapter.family) == (8, "llava")
    assert len(captions(loaded, list(scenes(0, 2)))) == 2
    assert any("projector: step 2/2" in line for line in lines)


def test_targets_are_what_the_masks_say() -> None:
    sample = list(scenes(70, 4))
    targets = train.patch_targets(sample)
    assert targets.what.sum(-1).numpy() == pytest.approx(1.0, abs=1e-5)
    names, hues = list(THINGS), list(COLORS)
    for number, scene in enumerate(sample):
        drawing = draw(scene)
        for index, thing in enumerate(scene.things, start=1):
            share = targets.what[number, :, names.index(thing.name)].sum() * parts.PATCH**2
            same = [i for i, t in enumerate(scene.things, start=1) if t.name == thing.name]
            assert share == pytest.approx(sum((drawing.owner == i).sum() for i in same), rel=1e-4)
            rows, columns = np.nonzero(drawing.owner == index)
            patch = int(np.median(rows)) // parts.PATCH * parts.GRID + int(np.median(columns)) // parts.PATCH
            if drawing.owner[int(np.median(rows)), int(np.median(columns))] == index:
                assert targets.color[number, patch] in (hues.index(thing.color), -100)


def test_only_the_answer_is_a_target(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, targets = train._caption_batch(tokenizer, list(scenes(0, 3)), random.Random(1))
    for row, target in zip(ids, targets, strict=True):
        asked = tokenizer.decode(row[target == -100], skip_special_tokens=True).strip()
        answer = tokenizer.decode(row[target != -100])
        assert asked.startswith("Describe this image")
        assert answer.endswith(".</s>")
        assert (row[target != -100] == target[target != -100]).all()


def test_rows_of_text_begin_with_a_document_and_mark_its_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = train._token_rows(tokenizer, 3, 0)
    assert rows.shape == (3, 2, train._ROW + 1)
    assert (rows[:, 0, 0] == tokenizer.bos_token_id).all()
    assert 0.05 < rows[:, 1].mean() < 0.6
    marked = tokenizer.decode(rows[0, 0][rows[0, 1] == 1])
    assert "Describe" not in marked
