"""Makes the example recordings: one sentence spoken by espeak-ng, and degraded versions of it.

    python examples/make_examples.py

Needs the program `espeak-ng` (Debian package of that name). The files are part of the repository, so nobody has to run it.
"""

import subprocess
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

FOLDER = Path(__file__).parent
SAMPLE = FOLDER.parent / "hf_sqa" / "assets" / "sample.flac"
RATE = 16_000
TEXT = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. It is easy to tell the depth of a well."
)


def spoken(text: str) -> np.ndarray:
    """Speech at 16 kHz, peak 0.5."""
    wav = subprocess.run(["espeak-ng", "-v", "en-us+m1", "-s", "150", "--stdout", text], check=True, capture_output=True).stdout
    samples = np.frombuffer(wav[44:], np.int16) / 32768
    speech = soxr.resample(samples, 22_050, RATE)
    return 0.5 * speech / np.abs(speech).max()


def noisy(speech: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(len(speech))
    return speech + noise * np.sqrt(np.mean(speech**2) / 10 ** (snr_db / 10))


def clipped(speech: np.ndarray, level: float) -> np.ndarray:
    return np.clip(speech, -level, level)


def with_packet_loss(speech: np.ndarray, loss: float) -> np.ndarray:
    """Every lost packet is 20 ms of zeros, as a receiver without concealment plays it."""
    packet = RATE // 50
    lost = np.random.default_rng(2).random(-(-len(speech) // packet)) < loss
    return np.where(np.repeat(lost, packet)[: len(speech)], 0.0, speech)


def low_passed(speech: np.ndarray, hertz: float) -> np.ndarray:
    return scipy.signal.sosfilt(scipy.signal.butter(8, hertz, fs=RATE, output="sos"), speech)


if __name__ == "__main__":
    speech = spoken(TEXT)
    recordings = {
        "clean": speech,
        "noise_20db": noisy(speech, 20),
        "noise_0db": noisy(speech, 0),
        "clipped": clipped(speech, 0.05),
        "packet_loss": with_packet_loss(speech, 0.2),
        "low_pass": low_passed(speech, 1500),
    }
    for name, samples in recordings.items():
        soundfile.write(FOLDER / f"{name}.flac", 0.5 * samples / np.abs(samples).max(), RATE, subtype="PCM_16")
    # The sample that `hf-sqa info` scores.
    soundfile.write(SAMPLE, spoken(TEXT.split(". ")[0]), RATE, subtype="PCM_16")
