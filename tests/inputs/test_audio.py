import wave
from pathlib import Path

import numpy as np
import pytest

from patchlens.errors import AudioError
from patchlens.inputs.audio import open_audio

TONE = np.sin(np.arange(8000) * 2 * np.pi * 440 / 16_000).astype(np.float32)


def _write(path: Path, width: int, channels: int = 1) -> Path:
    scaled = TONE * 0.5
    if width == 1:
        raw = (scaled * 127 + 128).astype(np.uint8)[:, None]
    elif width == 3:
        raw = (scaled * (2**23 - 1)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    else:
        raw = (scaled * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}")[:, None].view(np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 16_000, 0, "NONE", ""))
        file.writeframes(np.tile(raw, (1, channels)).tobytes())
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files(tmp_path: Path, width: int, channels: int) -> None:
    audio = open_audio(_write(tmp_path / "a tone.wav", width, channels))
    assert (audio.name, audio.rate, audio.seconds) == ("a tone", 16_000, 0.5)
    np.testing.assert_allclose(audio.samples, TONE * 0.5, atol=0.02 if width == 1 else 1e-4)


def test_arrays() -> None:
    audio = open_audio((TONE, 16_000), name="tone")
    assert open_audio(audio) is audio
    stereo = np.stack([TONE, TONE], axis=1)
    np.testing.assert_allclose(open_audio((stereo, 16_000)).samples, TONE, atol=1e-6)
    whole = (TONE * 32767).astype(np.int16)
    np.testing.assert_allclose(open_audio((whole, 16_000)).samples, TONE, atol=1e-4)
    assert open_audio((TONE, 16_000)).sha256 == audio.sha256 != open_audio((TONE, 8_000)).sha256


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_another_rate_keeps_the_tone(rate: int) -> None:
    samples = open_audio((TONE, 16_000)).at_rate(rate)
    assert len(samples) == round(rate / 2)
    peak = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    assert peak == pytest.approx(440, abs=3)


def test_a_lower_rate_has_no_tones_that_were_not_there() -> None:
    high = np.sin(np.arange(48_000) * 2 * np.pi * 15_000 / 48_000).astype(np.float32)
    heard = open_audio((high, 48_000)).at_rate(16_000)
    assert np.abs(heard[100:-100]).mean() < 0.3 * np.abs(high).mean()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("none.wav", "no such file"),
        ((TONE[:0], 16_000), "0 samples"),
        ((TONE, 0), "at 0 a second"),
        ((TONE * np.nan, 16_000), "NaN"),
        ((np.zeros((2, 3, 4)), 16_000), "of shape"),
        ((np.zeros(5, complex), 16_000), "of shape"),
        ((np.zeros(3601 * 4, np.float32), 4), "3,601 s long"),
    ],
)
def test_what_is_no_recording(given: object, told: str) -> None:
    with pytest.raises(AudioError, match=told):
        open_audio(given)  # type: ignore[arg-type]


def test_a_file_that_is_no_wav(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"ID3" + b"\0" * 100)
    with pytest.raises(AudioError, match="ffmpeg"):
        open_audio(tmp_path / "song.wav")
