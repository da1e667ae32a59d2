"""Example clips: the built-in sample, clean and degraded. They are made when the page starts, the same every time."""

import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile

from hf_sqa.degradations import low_pass, packet_loss, white_noise

#: The sentence is repeated this often, so that there are several windows for quality over time.
REPETITIONS = 5


def write_clips(folder: Path) -> dict[str, str]:
    """Write the example clips as FLAC; return their paths by label."""
    sample, rate = soundfile.read(io.BytesIO(files("hf_sqa").joinpath("assets/sample.flac").read_bytes()), dtype="float32")
    speech = np.tile(np.concatenate([sample, np.zeros(rate // 4, np.float32)]), REPETITIONS)
    rng = np.random.default_rng(0)
    lossy = packet_loss(speech, rate, loss_share=0.25, rng=rng, concealment="zeros")
    noisy = white_noise(speech, rate, snr_db=0, rng=rng)
    changing = speech.copy()
    changing[len(speech) // 2 :] = lossy[len(speech) // 2 :]
    clips = {
        "clean": speech,
        "packets lost in the second half": changing,
        "loud noise": noisy,
        "telephone": low_pass(speech, rate, cutoff_hz=3400),
        "silence": np.zeros(rate * 3, np.float32),
    }
    paths = {label: folder / f"{label.replace(' ', '-')}.flac" for label in clips}
    for label, path in paths.items():
        soundfile.write(path, np.clip(clips[label], -1, 1), rate)
    return {label: str(path) for label, path in paths.items()}
