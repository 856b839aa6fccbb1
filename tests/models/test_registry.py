from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest

from patchlens.errors import ModelError, UnknownFamily
from patchlens.models import registry
from patchlens.models.adapter import Adapter
from patchlens.models.registry import adapter_for, families, register


class FooAdapter(Adapter):
    family: ClassVar[str] = "foo"
    model_types: ClassVar[tuple[str, ...]] = ("foo_vl",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")


class GreedyAdapter(FooAdapter):
    model_types: ClassVar[tuple[str, ...]] = ("bar_vl", "llava")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_BY_TYPE", dict(registry._BY_TYPE))
    yield
    registry._register_installed.cache_clear()


@pytest.mark.parametrize(
    ("model_type", "family"),
    [("llava", "llava"), ("llama", "causal"), ("qwen2", "causal"), ("olmo2", "causal")],
)
def test_who_serves_what(model_type: str, family: str) -> None:
    assert adapter_for({"model_type": model_type}).family == family


@pytest.mark.parametrize(
    "config", [{"model_type": "foo_vl"}, {"model_type": ["llava"], "text_config": "x"}, {"model_type": None}, {}]
)
def test_an_unknown_family_names_the_known_ones(config: dict[str, object]) -> None:
    with pytest.raises(UnknownFamily, match=r"No adapter for .*llava.*causal"):
        adapter_for(config)


def test_remote_code_that_declares_a_causal_language_model() -> None:
    config = {"model_type": "new_lm", "auto_map": {"AutoModelForCausalLM": "modeling.New"}}
    assert adapter_for(config).family == "causal"
    with pytest.raises(UnknownFamily):
        adapter_for(config | {"vision_config": {}})


def test_a_new_family_is_one_line() -> None:
    before = families()
    register(FooAdapter())
    assert adapter_for({"model_type": "foo_vl"}).family == "foo"
    assert [adapter.family for adapter in families()] == [*(adapter.family for adapter in before), "foo"]


def test_a_multimodal_model_without_a_family_is_read_without_geometry() -> None:
    found = adapter_for({"model_type": "fuyu", "vision_config": {}})
    assert (found.family, found.modalities) == ("generic", ("image", "text"))
    assert found.tiles(None, None, (30, 40), 1) is None
    assert found not in families()


def test_duplicates_are_refused_whole() -> None:
    with pytest.raises(ModelError, match="'llava' is served"):
        register(GreedyAdapter())
    with pytest.raises(UnknownFamily):
        adapter_for({"model_type": "bar_vl"})


def _install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = EntryPoints([EntryPoint("foo", value, registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))
    registry._register_installed.cache_clear()


def test_installed_packages_add_families(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, f"{__name__}:FooAdapter")
    assert adapter_for({"model_type": "foo_vl"}).family == "foo"


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "no_such_package_at_all:Foo")
    with pytest.raises(ModelError, match="no_such_package_at_all"):
        families()
