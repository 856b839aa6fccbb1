"""Any recording a person has, as one channel of samples. Knows no model and no processor."""

import hashlib
import os
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from patchlens.errors import AudioError

__all__ = ["AudioInput", "AudioLike", "open_audio"]

_LONGEST = 3600
"""Seconds."""

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
        """The samples at another rate, by straight lines between them, after averaging where the rate falls.

        Processors of speech models take one rate, 16,000 as a rule. For more than a look, resample with a library that
        is made for it first.
        """
        if rate == self.rate:
            return self.samples
        wanted = max(1, round(len(self.samples) * rate / self.rate))
        smoothed = self.samples
        if rate < self.rate:  # else what lies above half the new rate would come back as other tones
            width = round(self.rate / rate)
            smoothed = np.convolve(self.samples, np.full(width, 1 / width), mode="same")
        at = np.arange(wanted) * (self.rate / rate)
        between: Samples = np.interp(at, np.arange(len(smoothed)), smoothed).astype(np.float32)
        return between


AudioLike: TypeAlias = str | Path | tuple[np.ndarray, int] | AudioInput
"""What `open_audio` takes."""


def open_audio(source: AudioLike, name: str | None = None) -> AudioInput:
    """Read a recording.

    Args:
        source: A WAV file (PCM of 8, 16, 24 or 32 bits), or (samples, rate): floats from -1 to 1 or integers, of shape
            [sample] or [sample, channel]. Several channels are averaged.
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
        return _input(source[0], int(source[1]), "the audio array", name or "audio", None)
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
        values = values.mean(axis=1)
    if values.ndim != 1 or values.dtype.kind != "f":
        raise AudioError(
            f"Cannot use {what} of shape {samples.shape} and type {samples.dtype}. Expected floats from -1 to 1, or "
            "integers, of shape [sample] or [sample, channel]."
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
