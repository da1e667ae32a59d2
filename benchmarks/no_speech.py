"""How often is the warning `no_speech` given, for speech and for what is none?

    python benchmarks/no_speech.py ../shared/data      # five seconds of CPU time

The folder holds `p808`, `neural_codecs` and `genspeech`: recordings of talkers, and of what coders made of them. The clean
recordings of P.808 (condition c0) are also heard in noise. Noise, tones and hum without speech are synthetic.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from machine import print_machine

from hf_sqa.audio import load_recording
from hf_sqa.degradations import pink_noise, white_noise
from hf_sqa.folders import AUDIO_SUFFIXES

RATE, SECONDS = 16_000, 5
NOISES = {"white": white_noise, "pink": pink_noise}
SLOPES_DB = {"white": 0, "pink": -3, "brown": -6}  # per octave


def is_warned(audio: object) -> bool:
    return "no_speech" in {finding.code for finding in load_recording(audio).warnings}


def coloured(slope_db: float, rng: np.random.Generator) -> np.ndarray:
    """Noise at -20 dB of full scale whose spectrum falls by so much an octave from 20 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(SECONDS * RATE))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(SECONDS * RATE, 1 / RATE), 20) / 20)
    noise = np.fft.irfft(spectrum * 10 ** (slope_db * octaves / 20))
    return (0.1 * noise / noise.std()).astype(np.float32)


def tones(frequencies_hz: np.ndarray) -> np.ndarray:
    times = np.arange(SECONDS * RATE) / RATE
    return (0.2 * np.mean([np.sin(2 * np.pi * frequency * times) for frequency in frequencies_hz], axis=0)).astype(np.float32)


def show(material: str, warned: list[bool]) -> None:
    print(f"| {material} | {len(warned)} | {sum(warned)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--synthetic", type=int, default=20, help="recordings of each kind without speech")
    options = parser.parse_args()
    print_machine()
    print("| material | recordings | `no_speech` |\n|---|---:|---:|")
    for folder in ("p808", "neural_codecs", "genspeech"):
        files = sorted(path for path in (options.data / folder).rglob("*") if path.suffix in AUDIO_SUFFIXES)
        show(folder, [is_warned(str(path)) for path in files])
    clean = [soundfile.read(path, dtype="float32") for path in sorted((options.data / "p808").rglob("c0_*.flac"))]
    rng = np.random.default_rng(0)
    for snr_db in (20, 10, 0, -5, -10):
        noisy = [(add(waveform, rate, snr_db=snr_db, rng=rng), rate) for waveform, rate in clean for add in NOISES.values()]
        show(
            f"speech in white or pink noise, SNR {snr_db} dB",
            [is_warned({"array": array, "sampling_rate": rate}) for array, rate in noisy],
        )
    draws = range(options.synthetic)
    kinds = {name: [coloured(slope_db, rng) for _ in draws] for name, slope_db in SLOPES_DB.items()}
    kinds |= {
        "a tone": [tones(rng.uniform(100, 4000, 1)) for _ in draws],
        "a chord": [tones(rng.uniform(100, 4000, 4)) for _ in draws],
        "hum": [tones(rng.uniform(45, 65) * np.arange(1, 9)) for _ in draws],
    }
    for kind, waveforms in kinds.items():
        show(f"{kind}, no speech", [is_warned({"array": array, "sampling_rate": RATE}) for array in waveforms])


if __name__ == "__main__":
    main()
