"""The published figures, against those that our reference gives in another form."""

from importlib.resources import files

import numpy as np
import pytest

from patchlens.errors import OptionError
from patchlens.evaluation.published import LENSES, Curve, published

PUBLISHED = published()
CONTROLLED = [f"{llm}+{encoder}" for llm in ("OLMo", "LLaMA3", "Qwen2") for encoder in ("CLIP", "SigLIP", "DINOv2")]
EVERY = (*CONTROLLED, "Qwen2-VL-7B", "Molmo-7B-D", "LLaVA-1.5-7B", "Qwen2.5-VL-32B", "LLaVA-NeXT-34B", "Molmo-72B")

# The mid-layer leap: the largest shares among the neighbors of visual layer 0, in percent.
LEAP = {
    "OLMo+CLIP": {8: 51.9, 2: 32.6},
    "OLMo+SigLIP": {8: 70.0, 16: 18.2},
    "OLMo+DINOv2": {8: 69.7, 16: 18.7},
    "LLaMA3+CLIP": {8: 49.9, 2: 34.4},
    "LLaMA3+SigLIP": {8: 33.0, 16: 29.1, 2: 21.6},
    "LLaMA3+DINOv2": {8: 56.1},
    "Qwen2+CLIP": {4: 47.9, 1: 24.2},
    "Qwen2+SigLIP": {16: 84.1},
    "Qwen2+DINOv2": {16: 64.2},
    "Qwen2-VL-7B": {4: 38.3, 2: 24.0, 1: 23.5},
    "Molmo-7B-D": {1: 36.3},
    "LLaVA-1.5-7B": {2: 68.0},
    "Molmo-72B": {16: 39.4, 2: 32.3},
    "LLaVA-NeXT-34B": {45: 66.5},
    "Qwen2.5-VL-32B": {2: 60.0, 32: 19.8},
}

# The cosine with layer 0, after layers 4, 8, 16, 24 and the last.
VISUAL_DRIFT = {
    "OLMo+CLIP": (0.937, 0.802, 0.530, 0.365, 0.159),
    "OLMo+SigLIP": (0.939, 0.817, 0.542, 0.387, 0.186),
    "OLMo+DINOv2": (0.966, 0.901, 0.708, 0.531, 0.264),
    "LLaMA3+CLIP": (0.999, 0.991, 0.919, 0.813, 0.635),
    "Qwen2+CLIP": (0.973, 0.914, 0.687, 0.531, 0.407),
    "Qwen2+DINOv2": (0.993, 0.987, 0.95, 0.875, 0.672),
    "Qwen2-VL-7B": (0.848, 0.571, 0.303, 0.191, 0.104),
}
TEXT_DRIFT = {
    "OLMo+CLIP": (0.398, 0.238, 0.155, 0.122, 0.060),
    "LLaMA3+CLIP": (0.235, 0.120, 0.084, 0.067, 0.016),
    "Qwen2+CLIP": (0.10, 0.071, 0.047, 0.029, 0.013),
    "Qwen2-VL-7B": (0.095, 0.063, 0.050, 0.028, 0.012),
}


def mean(model: str, lens: str) -> float:
    return float(np.mean(list(PUBLISHED.interpretability(model, lens).values())))


def test_all_models_are_there() -> None:
    assert tuple(model.name for model in PUBLISHED.models) == EVERY
    assert [model.name for model in PUBLISHED.models if model.controlled] == CONTROLLED
    assert all(bool(model.hub_ids) != model.controlled for model in PUBLISHED.models)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("lens", LENSES)
def test_a_models_average_is_that_of_its_layers(name: str, lens: str) -> None:
    """Within rounding to one decimal; none differs."""
    assert mean(name, lens) == pytest.approx(PUBLISHED.model(name).averages[lens], abs=0.0501)


@pytest.mark.parametrize(
    ("headline", "models", "within"),
    [
        ("v4", EVERY, 0.5),
        ("v4, to two decimals", EVERY, 0.005),
        ("v4, controlled models", CONTROLLED, 0.05),
        ("v1 and v2, corrected", EVERY[:10], 0.05),
    ],
)
def test_a_headline_is_the_mean_of_its_models(headline: str, models: tuple[str, ...], within: float) -> None:
    (found,) = (line for line in PUBLISHED.headlines if line.name == headline)
    assert found.models == len(models)
    for lens, percentage in found.percentages.items():
        assert np.mean([mean(model, lens) for model in models]) == pytest.approx(percentage, abs=within)


def test_the_first_versions_headline_cannot_be_recomputed_and_says_why() -> None:
    """It came before a correction that moved nearly all values, and no data of that time is published."""
    (first,) = (line for line in PUBLISHED.headlines if line.name == "v1 and v2")
    assert first.percentages == {"latent": 72.0, "logit": 23.0, "embedding": 30.0}
    assert abs(np.mean([mean(model, "embedding") for model in EVERY[:10]]) - 30.0) > 1
    assert "before a correction" in (first.note or "")


def test_the_mean_of_the_controlled_models_by_layer() -> None:
    rows = [list(PUBLISHED.interpretability(model, "latent").values()) for model in CONTROLLED]
    stated = [75.8, 74.2, 73.8, 74.6, 74.8, 77.9, 75.1, 74.2, 68.9]
    assert np.mean(rows, axis=0) == pytest.approx(stated, abs=0.051)


@pytest.mark.parametrize("model", PUBLISHED.models, ids=lambda model: model.name)
def test_layers_fit_the_language_model(model) -> None:
    count = 9 if model.depth < 40 else {60: 10, 64: 11, 80: 11}[model.depth]
    for curve in (*model.interpretability.values(), *model.drift.values(), *model.neighbors.values()):
        assert list(curve.values) == sorted(set(curve.values))
        assert 0 <= min(curve.values) <= max(curve.values) <= model.depth
    assert len(model.layers) == count
    assert model.layers[:5] == (0, 1, 2, 4, 8)
    assert model.layers[-2:] == (model.depth - 2, model.depth - 1)
    assert set(model.interpretability) == set(LENSES) == set(model.averages)
    assert {tuple(curve.values) for curve in model.interpretability.values()} == {model.layers}
    assert tuple(model.neighbors) == model.layers
    for curve in model.neighbors.values():
        assert set(curve.values) <= set(model.layers)


@pytest.mark.parametrize("model", PUBLISHED.models, ids=lambda model: model.name)
def test_values_are_possible(model) -> None:
    for curve in model.interpretability.values():
        assert all(0 <= percentage <= 100 for percentage in curve.values.values())
    for curve in model.neighbors.values():
        assert all(0 <= percentage <= 100 for percentage in curve.values.values())
        assert sum(curve.values.values()) == pytest.approx(100)
    similarities = [] if model.similarity is None else list(model.similarity.values.values())
    for curve in model.drift.values():
        similarities += curve.values.values()
    assert all(-1 <= similarity <= 1 for similarity in similarities)


@pytest.mark.parametrize("name", EVERY)
def test_the_mid_layer_leap(name: str) -> None:
    shares = PUBLISHED.model(name).neighbors[0].values
    largest = sorted(shares, key=shares.__getitem__, reverse=True)[: len(LEAP[name])]
    assert {layer: shares[layer] for layer in largest} == pytest.approx(LEAP[name], abs=0.051)


@pytest.mark.parametrize(
    ("name", "visual", "contextual", "share"),
    [
        ("OLMo+CLIP", 16, 16, 94),
        ("OLMo+SigLIP", 31, 31, 91),
        ("LLaMA3+CLIP", 24, 24, 59),
        ("Qwen2+DINOv2", 24, 24, 31),
        ("Qwen2-VL-7B", 24, 24, 86),
        ("Molmo-7B-D", 2, 2, 83),
        ("LLaVA-1.5-7B", 31, 31, 83),
        ("Molmo-72B", 16, 8, 56),
        ("LLaVA-NeXT-34B", 45, 4, 29),
        ("Qwen2.5-VL-32B", 63, 56, 53),
    ],
)
def test_where_later_layers_neighbors_come_from(name: str, visual: int, contextual: int, share: int) -> None:
    assert PUBLISHED.model(name).neighbors[visual].values[contextual] == pytest.approx(share, abs=0.51)


def test_every_neighbor_was_counted() -> None:
    """Five of each visual token of 100 images; of Qwen2-VL, of the 25,197 tokens of an older run."""
    tokens = {"SigLIP": 729, "Molmo": 144, "Qwen2.5": 256}
    for model in PUBLISHED.models:
        of_one = next((count for part, count in tokens.items() if part in model.name), 576)
        counted = {curve.n for curve in model.neighbors.values()}
        assert counted == {f"{125_985 if model.name == 'Qwen2-VL-7B' else 500 * of_one:,} neighbors"}


@pytest.mark.parametrize(("tokens", "stated"), [("visual", VISUAL_DRIFT), ("text", TEXT_DRIFT)], ids=["visual", "text"])
def test_drift(tokens: str, stated: dict[str, tuple[float, ...]]) -> None:
    for name, cosines in stated.items():
        curve = PUBLISHED.model(name).drift[tokens].values
        found = [curve[layer] for layer in (4, 8, 16, 24, max(curve))]
        assert found == pytest.approx(cosines, abs=0.00051), name
    assert {model.name for model in PUBLISHED.models if tokens in model.drift} >= set(stated)


def test_tokens_of_two_models_hardly_move() -> None:
    for name in ("LLaMA3+SigLIP", "LLaMA3+DINOv2"):
        curve = PUBLISHED.model(name).drift["visual"].values
        assert min(curve[layer] for layer in range(1, 32)) > 0.999
        assert curve[32] == pytest.approx(0.9935, abs=0.001)


def test_similarity_is_of_the_controlled_models() -> None:
    assert [model.name for model in PUBLISHED.models if model.similarity] == CONTROLLED
    olmo = PUBLISHED.model("OLMo+CLIP").similarity
    assert olmo is not None
    assert olmo.values == {0: 0.141, 8: 0.260, 16: 0.337}


def test_tables_have_what_they_say() -> None:
    tables = PUBLISHED.tables
    for row in tables["corpus_size"].rows.values():
        of_models = [value for name, value in row.items() if name != "mean"]
        assert np.mean(of_models) == pytest.approx(row["mean"], abs=0.051)
    words = tables["types_of_words"].rows
    total = sum(row["words"] for row in words.values())
    assert total == 16_238
    assert all(100 * row["words"] / total == pytest.approx(row["percent"], abs=0.5) for row in words.values())
    assert set(tables["captions"].rows) == {*CONTROLLED, "Qwen2-VL-7B"}
    assert np.mean([tables["captions"].rows[name]["overall"] for name in CONTROLLED]) == pytest.approx(6.0, abs=0.05)
    assert set(tables["norms"].rows) == set(CONTROLLED)
    assert set(tables["pass_at_1"].rows["OLMo+CLIP"]) == set(LENSES)
    assert tables["human_agreement"].rows["all lenses"] == {"kappa": 0.68, "alike": 84.4}
    for table in tables.values():
        assert all(0 <= value for row in table.rows.values() for value in row.values())
        if table.what.startswith("Percent"):
            assert all(value <= 100 for row in table.rows.values() for name, value in row.items() if name != "words")


def test_the_corpus_sizes_come_from_another_run() -> None:
    """With the whole corpus they are not the percentages by layer, but not far from them."""
    whole = {name: value for name, value in PUBLISHED.tables["corpus_size"].rows["100 %"].items() if name != "mean"}
    for name, value in whole.items():
        here = PUBLISHED.interpretability(name, "latent")
        by_layer = np.mean([here[layer] for layer in (0, 8, 16, max(here))])
        assert 0 < abs(by_layer - value) <= 1.5


def test_everything_has_a_source_and_says_what_it_is() -> None:
    for model in PUBLISHED.models:
        curves: list[Curve] = [*model.interpretability.values(), *model.neighbors.values(), *model.drift.values()]
        for curve in (*curves, *([model.similarity] if model.similarity else [])):
            assert "BennoKrojer/molmo" in curve.source
            assert len(curve.what.split()) > 4
            assert curve.n.split()[1] in ("patches", "neighbors", "images")
        assert model.interpretability["latent"].n == f"{98 if 'Molmo' in model.name else 100} patches"
    for figures in (*PUBLISHED.headlines, *PUBLISHED.tables.values()):
        assert "arXiv 2602.00462" in figures.source or "BennoKrojer/molmo" in figures.source


@pytest.mark.parametrize(
    ("hub_id", "name"),
    [
        ("Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL-7B"),
        ("llava-hf/llava-1.5-7b-hf", "LLaVA-1.5-7B"),
        ("llava-hf/llava-v1.6-34b-hf", "LLaVA-NeXT-34B"),
        ("Qwen/Qwen2.5-VL-32B-Instruct", "Qwen2.5-VL-32B"),
        ("allenai/Molmo-7B-D-0924", "Molmo-7B-D"),
        ("allenai/Molmo-72B-0924", "Molmo-72B"),
        ("allenai/molmo-72b-0924", "Molmo-72B"),
    ],
)
def test_models_of_the_hub_are_found(hub_id: str, name: str) -> None:
    found = PUBLISHED.for_model(hub_id)
    assert found is not None
    assert found.name == name
    assert PUBLISHED.interpretability(hub_id, "logit") == PUBLISHED.interpretability(name.lower(), "logit")


def test_other_models_are_not_taken_for_one_of_them() -> None:
    for other in ("Qwen/Qwen2.5-VL-7B-Instruct", "llava-hf/llava-1.5-13b-hf", "OLMo+CLIP", ""):
        assert PUBLISHED.for_model(other) is None


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"model 'Qwen3-VL'. Known: OLMo\+CLIP, .*allenai/Molmo-72B-0924\."):
        PUBLISHED.interpretability("Qwen3-VL", "latent")
    with pytest.raises(OptionError, match=r"lens 'tuned'. Known: latent, logit, embedding\."):
        PUBLISHED.interpretability("OLMo+CLIP", "tuned")


def test_a_reader_cannot_change_what_the_next_one_gets() -> None:
    published().interpretability("OLMo+CLIP", "latent")[0] = 0.0
    assert published().interpretability("OLMo+CLIP", "latent")[0] == 70.0


def test_the_data_come_with_the_package() -> None:
    assert (files("patchlens.evaluation") / "published.json").is_file()
