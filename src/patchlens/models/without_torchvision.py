"""Processors of models where torchvision is not installed.

transformers builds every part of a processor at once, and a video's part needs torchvision. Images do not: they are
prepared with Pillow then. So a stand-in takes the video part's place, and says what is missing once it is used. Some
processors also take a function for sizes from the module of their torchvision image processor; its Pillow twin has the
same.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import transformers
from transformers.models.auto import processing_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils.hub import PushToHubMixin
from transformers.utils.import_utils import is_torchvision_available

from patchlens.errors import MissingExtra

__all__ = ["processor_class", "torchvision_optional"]

_found_by_transformers = processing_auto.processor_class_from_name


class _NoVideos(transformers.BaseVideoProcessor, PushToHubMixin):  # type: ignore[misc, unused-ignore]
    """Passes for a video processor until it is asked to prepare one; through the mixin its `to_dict` is asked."""

    _auto_class = None
    num_frames = None
    fps = None

    def __init__(self, kind: str = "a video processor") -> None:
        self.kind = kind

    def to_dict(self) -> dict[str, Any]:
        return {"video_processor_type": self.kind}

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise MissingExtra(f"Preparing a video with {self.kind} needs torchvision: pip install torchvision.")


@contextmanager
def torchvision_optional() -> Iterator[None]:
    """Let processors load while the body runs, without their video part if torchvision is missing.

    To be used where one thread loads at a time: what it exchanges is global.
    """
    if is_torchvision_available():
        yield
        return
    loader: Any = AutoVideoProcessor
    auto: Any = processing_auto
    before = loader.__dict__.get("from_pretrained")
    loader.from_pretrained = classmethod(lambda _, *__, **___: _NoVideos())
    auto.processor_class_from_name = processor_class
    try:
        yield
    finally:
        auto.processor_class_from_name = _found_by_transformers
        if before is None:
            del loader.from_pretrained
        else:
            loader.from_pretrained = before


def processor_class(name: str) -> Any:
    """The processor of that name; also one that asks for torchvision and prepares images with Pillow.

    Args:
        name: Of a class of transformers.

    Returns:
        The class; what transformers itself says (None, or a class that cannot be used) where there is no such one.
    """
    failed: ImportError | None = None
    try:
        found = _found_by_transformers(name)
        if not getattr(found, "is_dummy", False):
            return found
    except ImportError as error:
        failed = error
    types = [kind for kind, processors in processing_auto.PROCESSOR_MAPPING_NAMES.items() if name == processors]
    for folder in map(model_type_to_module_name, types):
        package = f"transformers.models.{folder}"
        if find_spec(f"{package}.processing_{folder}") and find_spec(f"{package}.image_processing_pil_{folder}"):
            with _taken_for(f"{package}.image_processing_{folder}", f"{package}.image_processing_pil_{folder}"):
                return getattr(importlib.import_module(f"{package}.processing_{folder}"), name)
    if failed is not None:
        raise failed
    return found


@contextmanager
def _taken_for(module: str, twin: str) -> Iterator[None]:
    """Whoever imports one module while the body runs is given another."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = importlib.import_module(twin)
    try:
        yield
    finally:
        del sys.modules[module]
