"""Recordings too long for memory are decoded again while they are scored; nothing may change by it."""

import numpy as np
import pytest
import soundfile

from hf_sqa.audio import load_recording, recording

RATE = 16_000


@pytest.fixture(params=[16_000, 48_000], ids=["16 kHz", "48 kHz"])
def file(request, tmp_path, speech_like):
    path = tmp_path / "long.wav"
    speech = speech_like(11.3, request.param)
    soundfile.write(path, np.stack([speech, np.roll(speech, 1000)], axis=1), request.param)
    return path


@pytest.fixture
def both(file, monkeypatch):
    """The same recording, held in memory and not."""
    held = load_recording(file, sampling_rate=RATE)
    monkeypatch.setattr(recording, "MAX_SECONDS_IN_MEMORY", 2.0)
    streamed = load_recording(file, sampling_rate=RATE)
    assert held._waveform is not None and streamed._waveform is None
    return held, streamed


def test_streamed_samples_are_those_held_in_memory(both):
    held, streamed = both

    assert streamed.num_samples == held.num_samples == 180_800
    np.testing.assert_array_equal(streamed.waveform, held.waveform)


@pytest.mark.parametrize(
    "starts",
    [[0], [0, 16_000, 32_000, 170_000], [5, 5, 6], [70_000, 150_000], [0, 179_000, 180_799], list(range(0, 180_000, 320))],
    ids=["one", "with a leap", "repeated", "not from zero", "beyond the end", "dense"],
)
def test_streamed_windows_are_those_held_in_memory(both, starts):
    held, streamed = both
    expected = [held.waveform[start : start + 10_240] for start in starts]

    for one in (held, streamed):
        windows = list(one.windows(starts, 10_240))
        assert len(windows) == len(expected)
        for window, right in zip(windows, expected, strict=True):
            np.testing.assert_array_equal(window, right)


def test_windows_that_go_back_are_refused(both):
    with pytest.raises(ValueError, match="Expected ascending window starts, got 0"):
        list(both[1].windows([16_000, 0], 10_240))


@pytest.mark.parametrize("mode", ["published", "fast"])
def test_streamed_scores_are_those_held_in_memory(file, mode, tiny_scorer, monkeypatch):
    held = tiny_scorer(str(file), mode=mode, return_segments=True)
    monkeypatch.setattr(recording, "MAX_SECONDS_IN_MEMORY", 2.0)

    assert tiny_scorer(str(file), mode=mode, return_segments=True) == held


def test_a_streamed_recording_can_be_gone_through_twice(both):
    _, streamed = both

    first, second = (np.concatenate(list(streamed.blocks())) for _ in range(2))

    np.testing.assert_array_equal(first, second)
