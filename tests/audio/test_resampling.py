"""One resampler, the same on every machine, whether in blocks or at once."""

import numpy as np
import pytest
import soundfile
import soxr

from hf_sqa.audio import load_recording, resample

RATE = 16_000


@pytest.fixture(scope="module")
def speech_48k(shared):
    """Rated speech at 16 kHz, brought to 48 kHz: six seconds of talkers, not of tones."""
    file = sorted((shared / "data" / "p808").rglob("*.flac"))[0]
    samples, rate = soundfile.read(file, dtype="float32")
    return soxr.resample(samples, rate, 48_000, quality="VHQ")


def test_a_48_khz_file_scores_as_its_16_khz_version_by_soxr(speech_48k, default_scorer, tmp_path):
    soundfile.write(tmp_path / "48k.wav", speech_48k, 48_000, subtype="FLOAT")
    soundfile.write(tmp_path / "16k.wav", soxr.resample(speech_48k, 48_000, RATE), RATE, subtype="FLOAT")

    high, low = (default_scorer(str(tmp_path / name))["mos"] for name in ("48k.wav", "16k.wav"))

    assert high == pytest.approx(low, abs=1e-4)


def test_44_khz_stereo_scores_as_its_mono_16_khz_version(speech_48k, default_scorer, tmp_path):
    samples = soxr.resample(speech_48k, 48_000, 44_100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([1.5 * samples, 0.5 * samples], axis=1), 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", soxr.resample(samples, 44_100, RATE), RATE, subtype="FLOAT")

    stereo, mono = (default_scorer(str(tmp_path / name))["mos"] for name in ("stereo.wav", "mono.wav"))

    assert stereo == pytest.approx(mono, abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_in_blocks_equals_resampling_at_once(rate, speech_like):
    samples = speech_like(9.3, rate)

    streamed = load_recording(samples, sampling_rate=RATE, input_sampling_rate=rate).waveform
    at_once = soxr.resample(samples, rate, RATE)

    assert len(streamed) == len(at_once)
    np.testing.assert_allclose(streamed, at_once, rtol=0, atol=1e-6)


def test_the_right_rate_is_left_alone(speech_like):
    samples = speech_like(1.0)

    np.testing.assert_array_equal(resample(samples, RATE, RATE), samples)


def test_a_model_without_a_rate_gets_the_native_one(speech_like):
    recording = load_recording(speech_like(1.0, 44_100), input_sampling_rate=44_100)

    assert (recording.sampling_rate, recording.num_samples) == (44_100, 44_100)
