"""Any recording a person has, as one channel of samples. Knows no model and no processor."""

import hashlib
import math
import os
import wave
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import SupportsIndex, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from patchlens.errors import AudioError

__all__ = ["AudioInput", "AudioLike", "open_audio"]

_LONGEST = 3600
"""Seconds."""

_CHANNELS = 8
"""At most so many, where the shape of an array must say which axis they are."""

_REACH = 32
"""How far the low-pass of a change of rate looks to each side, in samples at the lower rate."""

_CUT = 0.45
"""Where it cuts, as a share of the lower rate. Half of it is the highest tone that there can be."""

_BLOCK = 4096

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True)
class AudioInput:
    """A recording as patchlens uses it; two are equal when name, source, rate and samples are."""

    samples: Samples = field(repr=False, compare=False)
    """From -1 to 1, one channel."""

    rate: int
    """Samples a second."""

    name: str
    """The file's name without its ending, or "audio"."""

    source: str | None
    """The path it was read from; None for one given in memory."""

    sha256: str
    """Of the rate and the samples."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def at_rate(self, rate: int) -> Samples:
        """The samples at another rate, without the tones above 0.45 of the lower of the two rates.

        Processors of speech models take one rate, 16,000 as a rule.
        """
        return self.samples if rate == self.rate else _resampled(self.samples, self.rate, rate)


AudioLike: TypeAlias = str | Path | tuple[np.ndarray, SupportsIndex | float] | AudioInput
"""What `open_audio` takes."""


def open_audio(source: AudioLike, name: str | None = None) -> AudioInput:
    """Read a recording.

    Args:
        source: A WAV file (PCM of 8, 16, 24 or 32 bits), or (samples, rate): floats from -1 to 1 or integers, of shape
            [sample], [sample, channel] or [channel, sample]: the first axis is taken for the channels if it is at most
            8 and shorter than the second. Several channels are averaged. The rate is a whole number.
        name: What to call it; by default the file's name without its ending, or "audio".

    Raises:
        AudioError: It is missing, damaged, empty, no recording, or longer than an hour.
    """
    if isinstance(source, AudioInput):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        samples, rate = _read(path)
        shown = os.fsencode(name or path.stem).decode("utf-8", "replace")
        return _input(samples, rate, f"audio '{path}'", shown, str(path))
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], np.ndarray):
        samples, given = source
        if not isinstance(given, Real) or not math.isfinite(given) or given != int(given):
            raise AudioError(f"Cannot use the audio array: its rate is {given!r}. Give a whole number, such as 16000.")
        if samples.ndim == 2 and samples.shape[0] <= _CHANNELS and samples.shape[0] < samples.shape[1]:
            samples = samples.T
        return _input(samples, int(given), "the audio array", name or "audio", None)
    raise AudioError(
        f"Cannot use a {type(source).__name__} as a recording. Give a WAV file, or (samples, rate) with samples as a "
        "NumPy array."
    )


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(os.fspath(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except FileNotFoundError as error:
        raise AudioError(f"Opening audio '{path}': there is no such file. Check the path.") from error
    except (wave.Error, EOFError, OSError) as error:
        raise AudioError(
            f"Opening audio '{path}': it is no WAV file in PCM, or it is damaged ({error}). Convert it first: "
            "ffmpeg -i FILE -ac 1 -ar 16000 OUT.wav"
        ) from error
    if width == 1:
        values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        padded = np.frombuffer(raw[: len(raw) // 3 * 3], np.uint8).reshape(-1, 3)
        shifted = np.concatenate([np.zeros((len(padded), 1), np.uint8), padded], axis=1)
        values = shifted.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        values = np.frombuffer(raw, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    return values[: len(values) // channels * channels].reshape(-1, channels), rate


def _input(samples: np.ndarray, rate: int, what: str, name: str, source: str | None) -> AudioInput:
    values = np.asarray(samples)
    if values.dtype.kind == "i":
        values = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    if values.ndim == 2:
        values = values.mean(axis=1) if values.size else values.ravel()
    if values.ndim != 1 or values.dtype.kind != "f":
        raise AudioError(
            f"Cannot use {what} of shape {samples.shape} and type {samples.dtype}. Expected floats from -1 to 1, or "
            "integers, of shape [sample], [sample, channel] or [channel, sample]."
        )
    values = np.ascontiguousarray(values, dtype=np.float32)
    if rate < 1 or not len(values):
        raise AudioError(f"Cannot use {what}: it has {len(values)} samples at {rate} a second. Give a recording.")
    if len(values) > _LONGEST * rate:
        raise AudioError(f"Cannot use {what}: it is {len(values) / rate:,.0f} s long. Cut it to at most {_LONGEST} s.")
    if not np.isfinite(values).all():
        raise AudioError(f"Cannot use {what}: it holds NaN or infinity.")
    digest = hashlib.sha256(f"{rate}:".encode() + values.tobytes()).hexdigest()
    return AudioInput(values, rate, name, source, digest)


def _resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Each new sample as a weighted mean of the old ones around it: a sinc under a Blackman window.

    Weights depend only on where a new sample falls between two old ones. That repeats, so all new samples with the same
    weights are made together.
    """
    lower = min(1.0, wanted / rate)  # the lower rate as a share of the old one
    step, phases = rate // math.gcd(rate, wanted), wanted // math.gcd(rate, wanted)
    made = np.empty(max(1, round(len(samples) * wanted / rate)), np.float32)
    reach = math.ceil(_REACH / lower)
    windows = sliding_window_view(np.pad(samples, reach, mode="edge"), 2 * reach + 1)
    for phase in range(min(phases, len(made))):
        first, part = divmod(phase * step, phases)
        away = (np.arange(-reach, reach + 1) - part / phases) * lower  # in samples at the lower rate
        angle = np.pi * np.clip(away / _REACH, -1, 1)
        weights = np.sinc(2 * _CUT * away) * (0.42 + 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle))
        weights = (weights / weights.sum()).astype(np.float32)
        mine = made[phase::phases]
        for block in range(0, len(mine), _BLOCK):  # NumPy copies overlapping windows before it multiplies them
            begin, end = first + block * step, first + min(block + _BLOCK, len(mine)) * step
            mine[block : block + _BLOCK] = windows[begin:end:step] @ weights
    return made
