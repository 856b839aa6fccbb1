"""When the tokens of a recording are: from frames of a spectrogram to seconds. Knows no processor."""

import torch
from torch import Tensor

from patchlens.axes import Float

__all__ = ["even_spans"]


def even_spans(count: int, frames: int, ahead: float, second: float) -> Float[Tensor, "token 2"]:
    """Give each token as many frames as any other, one after another.

    A spectrogram's frame i is the sound around the moment of i steps, and so begins half a step earlier; what a
    convolution of stride 2 makes of frames around i begins a whole step earlier.

    Args:
        count: Tokens.
        frames: In each.
        ahead: How many frames a token begins before the moment of its first frame.
        second: Frames in one.

    Returns:
        From when to when, in seconds; nothing begins before 0.

    Example:
        >>> even_spans(2, frames=4, ahead=1.0, second=100.0).tolist()
        [[0.0, 0.029999999329447746], [0.029999999329447746, 0.07000000029802322]]
    """
    edges = (torch.arange(count + 1, dtype=torch.float32) * frames - ahead).clamp(min=0) / second
    return torch.stack([edges[:-1], edges[1:]], dim=1)
