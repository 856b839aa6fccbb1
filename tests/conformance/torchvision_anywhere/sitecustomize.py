"""Let torchvision be imported where its compiled kernels do not fit this build of torch, as a CPU build.

Python runs this file at start when its folder is on PYTHONPATH. Preparing images needs no kernel of torchvision's own;
importing it needs two of them to have a name.
"""

import importlib.util
from pathlib import Path

import torch


def _kernels_load() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True
    try:
        torch.ops.load_library(str(Path(found.origin).with_name("_C.so")))
    except (OSError, RuntimeError):
        return False
    return True


if not _kernels_load():
    names = torch.library.Library("torchvision", "DEF")
    names.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    names.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
