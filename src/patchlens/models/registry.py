"""Which adapter serves which model type: ours, and those that installed packages add by entry point."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from patchlens.errors import ModelError, UnknownFamily
from patchlens.models.adapter import Adapter
from patchlens.models.families.causal import CausalAdapter
from patchlens.models.families.llava import LlavaAdapter

__all__ = ["GROUP", "adapter_for", "families", "register"]

GROUP = "patchlens.families"
"""The entry point group; each entry names an `Adapter` class or instance."""

_BY_TYPE: dict[str, Adapter] = {}


def register(adapter: Adapter) -> None:
    """Add a family.

    Args:
        adapter: Serves the model types that it names.

    Raises:
        ModelError: One of them is served already.
    """
    taken = sorted(set(adapter.model_types) & set(_BY_TYPE))
    if taken:
        raise ModelError(
            f"Cannot register the family '{adapter.family}': model type '{taken[0]}' is served by "
            f"'{_BY_TYPE[taken[0]].family}' already. Give the new adapter only types that have none."
        )
    _BY_TYPE.update(dict.fromkeys(adapter.model_types, adapter))


def adapter_for(config: Mapping[str, Any]) -> Adapter:
    """Find the adapter of a model.

    Args:
        config: The fields of its config.json.

    Returns:
        The adapter that serves its `model_type`; the text-only one for remote code that declares a causal
        language model.

    Raises:
        UnknownFamily: None does; the message names those that exist.
    """
    _register_installed()
    model_type = config.get("model_type")
    if model_type in _BY_TYPE:
        return _BY_TYPE[model_type]
    if "AutoModelForCausalLM" in (config.get("auto_map") or {}) and "vision_config" not in config:
        return next(family for family in families() if isinstance(family, CausalAdapter))
    raise UnknownFamily(
        f"No adapter for model type {model_type!r}. Known: "
        + "; ".join(f"{adapter.family} ({_types(adapter)})" for adapter in families())
        + ". To add one, write an Adapter and offer it in the entry point group "
        + f"'{GROUP}'."
    )


def families() -> list[Adapter]:
    """List the adapters, ours first, in order of registration."""
    _register_installed()
    return list(dict.fromkeys(_BY_TYPE.values()))


def _types(adapter: Adapter) -> str:
    shown = ", ".join(adapter.model_types[:3])
    return shown if len(adapter.model_types) <= 3 else f"{shown} and {len(adapter.model_types) - 3} more"


@cache
def _register_installed() -> None:
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
        except Exception as error:
            raise ModelError(
                f"The model family '{entry.name}' is offered by {entry.value!r}, which cannot be loaded "
                f"({error}). Install that package again, or remove it."
            ) from error
        register(offered() if isinstance(offered, type) else offered)


register(LlavaAdapter())
register(CausalAdapter())
