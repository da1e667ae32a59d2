"""Long recordings in flat memory, measured in processes of their own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
RATE = 16_000
SCORE = """
import hf_sqa
scorer = hf_sqa.pipeline({model!r}, device="cpu")
result = scorer({file!r}, hop_seconds={hop_seconds}, return_details=True)
# Not getrusage: it counts what the parent held when it started this process.
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result["duration_seconds"], result["num_segments"], result["mos"], peak)
"""


@pytest.fixture
def score(nursery):
    """`score(model, file, hop_seconds)`: seconds, windows, score and peak memory in MB of a process that scores one file."""

    def run(model, file, hop_seconds):
        process = nursery.start(SCORE.format(model=str(model), file=str(file), hop_seconds=hop_seconds))
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        return [float(number) for number in output.split("\n")[-2].split()]

    return run


@pytest.fixture
def small(make_tiny, tmp_path):
    """A folder with a tiny model that has few filters, and windows as long as those of the published one."""
    few = {"num_mel_bins": 8, "num_conv_layers": 1, "conv_layer_channels": [4], "conv_time_strides": [4], "num_hidden_layers": 1}
    model = make_tiny(**few, window_samples=122_880, hop_samples=61_440)
    model.save_pretrained(tmp_path / "small")
    model.make_feature_extractor().save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def write_noise(path, minutes, subtype="PCM_16"):
    rng = np.random.default_rng(0)
    minute = (0.1 * rng.standard_normal(60 * RATE)).astype(np.float32)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype) as file:
        for index in range(minutes):
            file.write(np.roll(minute, 977 * index))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(score, small, tmp_path):
    """With a tiny model, to save five minutes; what the published one needs on top shows in the test below."""
    peaks = {}
    for minutes in (5, 120):
        write_noise(tmp_path / "long.wav", minutes)
        seconds, num_segments, mos, peaks[minutes] = score(small, tmp_path / "long.wav", hop_seconds=3.84)
        assert seconds == 60 * minutes
        assert num_segments == {5: 78, 120: 1874}[minutes]  # (seconds - 7.68) / 3.84, rounded up, and one
        assert 1.0 <= mos <= 5.0

    assert peaks[120] < peaks[5] + 45  # 115 minutes of samples alone are 442 MB
    assert peaks[120] < 1500


@pytest.mark.slow
def test_two_minutes_in_published_mode_need_little_memory(score, default_scorer, tmp_path):
    write_noise(tmp_path / "long.wav", 2)

    seconds, num_segments, _, peak = score("default", tmp_path / "long.wav", hop_seconds=7.68)

    assert (seconds, num_segments) == (120, 16)  # (120 - 7.68) / 7.68, rounded up, and one
    assert peak < 1500
