"""Weights that accelerate keeps in main memory or on disk, and fetches for as long as a module runs.

Such weights are on "meta" in between, where none can be read. Modules are called as usual; only who looks at values, or
asks where a module computes, comes here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["brought", "computes_on"]


@contextmanager
def brought(module: nn.Module) -> Iterator[None]:
    """Have a module's own parameters where they can be read while the body runs.

    Args:
        module: Any; nothing happens where its parameters are in memory already.
    """
    if not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        yield
        return
    from accelerate.utils import align_module_device  # it put the weights away, so it is installed

    with align_module_device(module, execution_device=torch.device("cpu")):
        yield


def computes_on(module: nn.Module) -> torch.device:
    """The device on which a module computes: that of its weights, or the one they are fetched to.

    Args:
        module: With at least one parameter.
    """
    device = next(module.parameters()).device
    hook: Any = getattr(module, "_hf_hook", None)
    where = getattr(hook, "execution_device", None)
    return torch.device(where) if device.type == "meta" and where is not None else device
