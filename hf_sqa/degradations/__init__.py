"""Speech made worse in known ways: one function a kind, NumPy in and out, chance from a generator; chains of them as data.

A kind takes `(waveform, sampling_rate, ...)` and returns float32 samples of the same length, aligned with the input. [`Chain`]
draws kinds and their parameters from what a preset or a YAML file says, and its record replays the draw.
"""

# A module that is imported here registers its kinds; `KINDS` lists them in this order, which is that of the sound's way.
# isort: off
from hf_sqa.degradations.kind import KINDS
from hf_sqa.degradations.level import gain, level_dbfs, set_level
from hf_sqa.degradations.noise import (
    RecordingFolder,
    add_noise,
    babble,
    background_noise,
    fluctuating_noise,
    hum,
    pink_noise,
    recorded_noise,
    white_noise,
)
from hf_sqa.degradations.mnru import mnru
from hf_sqa.degradations.reverberation import reverberation, room
from hf_sqa.degradations.echo import echo
from hf_sqa.degradations.band import band_pass, high_pass, low_pass
from hf_sqa.degradations.clipping import clip_level, clip_share, soft_clip
from hf_sqa.degradations.chopping import chop
from hf_sqa.degradations.packet_loss import draw_losses, jitter, packet_loss
from hf_sqa.degradations.codec import (
    CodecUnavailableError,
    aac,
    adpcm,
    amr_nb,
    amr_wb,
    codec2,
    g711,
    g726,
    gsm,
    lyra,
    mp3,
    opus,
    speex,
    vorbis,
)
from hf_sqa.degradations.noise_suppression import spectral_subtraction, wiener_filter
from hf_sqa.degradations.vocoder import lpc_vocoder, mel_vocoder, phase_noise, world_vocoder
from hf_sqa.degradations.chain import Chain, presets
from hf_sqa.degradations.folders import Job, Run, degrade_files

# isort: on

__all__ = [
    "KINDS",
    "Chain",
    "CodecUnavailableError",
    "Job",
    "RecordingFolder",
    "Run",
    "aac",
    "add_noise",
    "adpcm",
    "amr_nb",
    "amr_wb",
    "babble",
    "background_noise",
    "band_pass",
    "chop",
    "clip_level",
    "clip_share",
    "codec2",
    "degrade_files",
    "draw_losses",
    "echo",
    "fluctuating_noise",
    "g711",
    "g726",
    "gain",
    "gsm",
    "high_pass",
    "hum",
    "jitter",
    "level_dbfs",
    "low_pass",
    "lpc_vocoder",
    "lyra",
    "mel_vocoder",
    "mnru",
    "mp3",
    "opus",
    "packet_loss",
    "phase_noise",
    "pink_noise",
    "presets",
    "recorded_noise",
    "reverberation",
    "room",
    "set_level",
    "soft_clip",
    "spectral_subtraction",
    "speex",
    "vorbis",
    "white_noise",
    "wiener_filter",
    "world_vocoder",
]
