"""Draws the spectrograms of docs/degradations.md: the same 2.4 seconds of speech, degraded in one way each.

    python docs/make_degradation_spectrograms.py

Needs libopus0, libopencore-amrnb0, libopencore-amrwb0, libvo-amrwbenc0, libspeex1 and ffmpeg (Debian packages) for the
codecs, pyroomacoustics for the room. The pictures are part of the repository, so nobody has to run it.
"""

import inspect
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from PIL import Image

from hf_sqa.degradations import KINDS

FOLDER = Path(__file__).parent / "degradations"
SPEECH = Path(__file__).parents[1] / "examples" / "clean.flac"
SECONDS = (0.0, 2.4)
HIGHEST_DB, LOWEST_DB = -40.0, -110.0  # dB of full scale per Hz
COLOURS = plt.get_cmap("magma", 14)  # 5 dB each

Panel = tuple[str, list[tuple[str, dict[str, Any]]]]
FIGURES: dict[str, list[Panel]] = {
    "noise-and-rooms": [
        ("clean", []),
        ("white_noise, 10 dB", [("white_noise", {"snr_db": 10})]),
        ("pink_noise, 10 dB", [("pink_noise", {"snr_db": 10})]),
        ("hum, 5 dB", [("hum", {"snr_db": 5})]),
        ("babble, 5 dB", [("babble", {"snr_db": 5})]),
        ("fluctuating_noise, 5 dB", [("fluctuating_noise", {"snr_db": 5, "fluctuation_db": 10})]),
        ("mnru, Q 10 dB", [("mnru", {"q_db": 10})]),
        ("reverberation, T60 1.2 s", [("reverberation", {"t60_seconds": 1.2})]),
        ("room, T60 0.6 s", [("room", {"t60_seconds": 0.6})]),
    ],
    "band-level-and-clipping": [
        ("echo, 200 ms, 6 dB", [("echo", {"delay_ms": 200, "attenuation_db": 6})]),
        ("low_pass, 2 kHz", [("low_pass", {"cutoff_hz": 2000})]),
        ("high_pass, 1 kHz", [("high_pass", {"cutoff_hz": 1000})]),
        ("band_pass, 300 to 3400 Hz", [("band_pass", {})]),
        ("gain, -20 dB", [("gain", {"gain_db": -20})]),
        ("set_level, -50 dBFS", [("set_level", {"target_dbfs": -50})]),
        ("clip_level, 0.05", [("clip_level", {"level": 0.05})]),
        ("clip_share, 20 %", [("clip_share", {"share": 0.2})]),
        ("soft_clip, 20 dB", [("soft_clip", {"drive_db": 20})]),
    ],
    "losses": [
        ("chop, 4 a second, 40 ms", [("chop", {"chops_per_second": 4, "chop_ms": 40})]),
        ("packet_loss 20 %, zeros", [("packet_loss", {"loss_share": 0.2, "concealment": "zeros"})]),
        ("packet_loss 20 %, pitch", [("packet_loss", {"loss_share": 0.2})]),
        ("jitter, 400 ms", [("jitter", {"jitter_ms": 400})]),
        ("opus 16 kb/s, 30 % lost", [("opus", {"bitrate_kbps": 16, "loss_share": 0.3})]),
        ("amr_wb, 30 % lost", [("amr_wb", {"loss_share": 0.3})]),
    ],
    "codecs": [
        ("opus, 6 kb/s", [("opus", {"bitrate_kbps": 6})]),
        ("opus, 32 kb/s", [("opus", {"bitrate_kbps": 32})]),
        ("amr_nb, 4.75 kb/s", [("amr_nb", {"bitrate_kbps": 4.75})]),
        ("amr_wb, 12.65 kb/s", [("amr_wb", {"bitrate_kbps": 12.65})]),
        ("gsm", [("gsm", {})]),
        ("g711, mu", [("g711", {})]),
        ("g726, 16 kb/s", [("g726", {"bitrate_kbps": 16})]),
        ("speex, 10 kb/s", [("speex", {"bitrate_kbps": 10})]),
        ("mp3, 24 kb/s", [("mp3", {"bitrate_kbps": 24})]),
        ("aac, 16 kb/s", [("aac", {"bitrate_kbps": 16})]),
        ("vorbis, quality 0", [("vorbis", {"quality": 0})]),
        ("adpcm, 2 bits", [("adpcm", {"variant": "nms_16"})]),
    ],
    "processing": [
        ("white_noise, 10 dB", [("white_noise", {"snr_db": 10})]),
        ("then wiener_filter", [("white_noise", {"snr_db": 10}), ("wiener_filter", {})]),
        ("then spectral_subtraction", [("white_noise", {"snr_db": 10}), ("spectral_subtraction", {"oversubtraction": 1.5})]),
        ("clean", []),
        ("mel_vocoder, 24 bands", [("mel_vocoder", {"num_mel_bins": 24, "num_iterations": 4})]),
        ("phase_noise, 2.5 rad", [("phase_noise", {"spread_rad": 2.5})]),
    ],
}


def degraded(speech: np.ndarray, sampling_rate: int, steps: list[tuple[str, dict[str, Any]]]) -> np.ndarray:
    for kind, parameters in steps:
        chance = {"rng": np.random.default_rng(3)} if "rng" in inspect.signature(KINDS[kind]).parameters else {}
        speech = KINDS[kind](speech, sampling_rate, **parameters, **chance)
    return speech


def draw(name: str, panels: list[Panel], speech: np.ndarray, sampling_rate: int) -> None:
    """One figure of small multiples, all with the same axes and the same scale of levels."""
    rows = len(panels) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(9.6, 1.75 * rows + 0.75), sharex=True, sharey=True, layout="constrained")
    for axis, (title, steps) in zip(axes.flat, panels, strict=True):
        waveform = degraded(speech, sampling_rate, steps)
        floor = 1e-7 * np.random.default_rng(0).standard_normal(len(waveform))  # digital silence has no logarithm
        _, _, _, image = axis.specgram(
            waveform + floor,
            NFFT=384,
            Fs=sampling_rate,
            noverlap=192,
            cmap=COLOURS,
            vmin=LOWEST_DB,
            vmax=HIGHEST_DB,
            interpolation="nearest",
        )
        axis.set_title(title, fontsize=9, pad=3)
        axis.set_yticks([0, 2000, 4000, 6000, 8000], ["0", "2", "4", "6", "8"])
        axis.tick_params(labelsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.01, ticks=range(-110, -30, 10))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("dB of full scale per Hz", fontsize=8)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=75)
    plt.close(figure)
    _shrink(FOLDER / f"{name}.png")


def _shrink(path: Path) -> None:
    """The colours of the scale and some greys for the letters are enough, and a quarter of the bytes."""
    colours = (255 * COLOURS(np.arange(COLOURS.N))[:, :3]).round().astype(int).tolist() + [[grey] * 3 for grey in range(0, 256, 17)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    picture = Image.open(path).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    speech, sampling_rate = soundfile.read(SPEECH, dtype="float32")
    begin, end = (round(second * sampling_rate) for second in SECONDS)
    for name, panels in FIGURES.items():
        draw(name, panels, speech[begin:end], sampling_rate)
