import time
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


@pytest.mark.parametrize("shape", [(2, 8000), (8000, 2), (1, 8000), (8000, 1)])
def test_channels_may_come_first_or_last(shape: tuple[int, int]) -> None:
    channels = np.stack([TONE * 0.5, TONE])[-min(shape) :]
    given = channels if shape[0] < shape[1] else channels.T
    assert given.shape == shape
    np.testing.assert_allclose(open_audio((given, 16_000)).samples, channels.mean(axis=0), atol=1e-6)


def test_a_wav_file_says_itself_which_axis_is_time(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setparams((4, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.full((3, 4), 2**14, "<i2").tobytes())
    assert open_audio(tmp_path / "short.wav").samples.tolist() == [0.5] * 3


@pytest.mark.parametrize("rate", [np.int64(16_000), 16_000.0, np.float64(16_000)])
def test_a_whole_rate_of_any_type(rate: float) -> None:
    audio = open_audio((TONE, rate))
    assert (audio.rate, type(audio.rate)) == (16_000, int)
    assert audio == open_audio((TONE, 16_000))


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_another_rate_keeps_the_tone(rate: int) -> None:
    samples = open_audio((TONE, 16_000)).at_rate(rate)
    assert len(samples) == round(rate / 2)
    peak = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    assert peak == pytest.approx(440, abs=3)


def _sine(frequency: float, rate: int) -> np.ndarray:
    return np.sin(np.arange(rate) * 2 * np.pi * frequency / rate).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "frequency"), [(48_000, 15_000), (22_050, 10_000), (22_050, 8_500), (44_100, 9_000), (16_001, 8_000)]
)
def test_a_lower_rate_has_no_tones_that_were_not_there(rate: int, frequency: int) -> None:
    heard = open_audio((_sine(frequency, rate), rate)).at_rate(16_000)
    assert np.abs(heard[100:-100]).max() < 1e-3


@pytest.mark.parametrize(("rate", "wanted"), [(48_000, 16_000), (22_050, 16_000), (8_000, 16_000), (11_025, 16_000)])
def test_a_tone_that_both_rates_have_stays_where_and_as_loud_as_it_was(rate: int, wanted: int) -> None:
    heard = open_audio((_sine(3_000, rate), rate)).at_rate(wanted)
    np.testing.assert_allclose(heard[200:-200], _sine(3_000, wanted)[200:-200], atol=1e-3)


def test_the_same_rate_is_the_same_samples() -> None:
    audio = open_audio((TONE, 16_000))
    assert audio.at_rate(16_000) is audio.samples


@pytest.mark.parametrize("count", [1, 2, 50, 4097 * 3])
@pytest.mark.parametrize("rates", [(48_000, 16_000), (22_050, 16_000), (8_000, 16_000), (1_000, 16_000), (16_001, 3)])
def test_a_steady_value_stays_at_every_length_and_rate(count: int, rates: tuple[int, int]) -> None:
    rate, wanted = rates
    heard = open_audio((np.full(count, 0.5, np.float32), rate)).at_rate(wanted)
    np.testing.assert_allclose(heard, 0.5, atol=1e-5)


def test_half_a_minute_takes_a_moment() -> None:
    audio = open_audio((np.zeros(30 * 44_100, np.float32), 44_100))
    start = time.perf_counter()
    audio.at_rate(16_000)
    assert time.perf_counter() - start < 5  # measured: 120 ms


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("none.wav", "no such file"),
        ((TONE[:0], 16_000), "0 samples"),
        ((TONE, 0), "at 0 a second"),
        ((TONE, 22_050.5), "rate is 22050.5. Give a whole number"),
        ((TONE, float("nan")), "rate is nan"),
        ((np.zeros((5, 0), np.float32), 16_000), "0 samples"),
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
