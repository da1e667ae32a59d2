"""Long recordings in flat memory, measured in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.processes import PATIENCE

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
RATE = 16_000
SCORE = """
import sys
import hf_sqa
scorer = hf_sqa.pipeline(sys.argv[1], device="cpu")
result = scorer(sys.argv[2], mode=sys.argv[3], hop_seconds=float(sys.argv[4]), return_details=True)
# Not getrusage: it counts what the parent held when it started this process.
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result["duration_seconds"], result["num_segments"], result["mos"], peak)
"""


def score(model, file, mode, hop_seconds):
    """Seconds, windows, score and peak memory in MB of a process that scores one file."""
    output = subprocess.run(
        [sys.executable, "-c", SCORE, str(model), str(file), mode, str(hop_seconds)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout
    return [float(number) for number in output.split("\n")[-2].split()]


def write_noise(path, minutes, subtype="PCM_16"):
    rng = np.random.default_rng(0)
    minute = (0.1 * rng.standard_normal(60 * RATE)).astype(np.float32)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype) as file:
        for index in range(minutes):
            file.write(np.roll(minute, 977 * index))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(tiny_folder, tmp_path):
    peaks = {}
    for minutes in (5, 30):
        write_noise(tmp_path / "long.wav", minutes)
        seconds, _, mos, peaks[minutes] = score(tiny_folder, tmp_path / "long.wav", "published", 0.2)
        assert seconds == 60 * minutes
        assert 1.0 <= mos <= 5.0

    assert peaks[30] < peaks[5] + 45  # 25 minutes of samples alone are 96 MB
    assert peaks[30] < 1500


@pytest.mark.slow
def test_four_minutes_in_published_mode_need_little_memory(default_scorer, tmp_path):
    write_noise(tmp_path / "long.wav", 4)

    seconds, num_segments, _, peak = score("default", tmp_path / "long.wav", "published", 7.68)

    assert (seconds, num_segments) == (240, 32)  # (240 - 7.68) / 7.68, rounded up, and one
    assert peak < 1500


@pytest.mark.slow
def test_two_hours_need_less_than_1500_mb(tiny_folder, tmp_path):
    """With the tiny model, to save five minutes; what the published one needs on top shows in the test above."""
    write_noise(tmp_path / "long.wav", 120)

    seconds, num_segments, mos, peak = score(tiny_folder, tmp_path / "long.wav", "fast", 0.64)

    assert (seconds, num_segments) == (7200, 11_250)  # 7200 / 0.64
    assert 1.0 <= mos <= 5.0
    assert peak < 1500
