"""Degrade speech in known ways: one function per kind, NumPy in and out, randomness from a generator; chains of them as data.

A kind takes `(waveform, sampling_rate, ...)` and returns float32 samples of the same length, aligned with the input. [`Chain`]
draws kinds and their parameters as a preset or a YAML file specifies, and its record replays the draw.
"""

# A module that is imported here registers its kinds; `KINDS` lists them in this order, that of the signal path.
# isort: off
from hf_sqa.degradations.kind import KINDS as KINDS
from hf_sqa.degradations.level import gain as gain, level_dbfs as level_dbfs, set_level as set_level
from hf_sqa.degradations.noise import (
    RecordingFolder as RecordingFolder,
    add_noise as add_noise,
    babble as babble,
    background_noise as background_noise,
    fluctuating_noise as fluctuating_noise,
    hum as hum,
    mnru as mnru,
    pink_noise as pink_noise,
    recorded_noise as recorded_noise,
    white_noise as white_noise,
)
from hf_sqa.degradations.reverberation import echo as echo, reverberation as reverberation, room as room
from hf_sqa.degradations.band import band_pass as band_pass, high_pass as high_pass, low_pass as low_pass
from hf_sqa.degradations.clipping import clip_level as clip_level, clip_share as clip_share, soft_clip as soft_clip
from hf_sqa.degradations.packet_loss import chop as chop, draw_losses as draw_losses, jitter as jitter, packet_loss as packet_loss
from hf_sqa.degradations.codec.amr import amr_nb as amr_nb, amr_wb as amr_wb
from hf_sqa.degradations.codec.ffmpeg import aac as aac, codec2 as codec2
from hf_sqa.degradations.codec.lyra import lyra as lyra
from hf_sqa.degradations.codec.opus import opus as opus
from hf_sqa.degradations.codec.shared_library import CodecUnavailableError as CodecUnavailableError
from hf_sqa.degradations.codec.sound_file import (
    adpcm as adpcm,
    g711 as g711,
    g726 as g726,
    gsm as gsm,
    mp3 as mp3,
    vorbis as vorbis,
)
from hf_sqa.degradations.codec.speex import speex as speex
from hf_sqa.degradations.noise_suppression import spectral_subtraction as spectral_subtraction, wiener_filter as wiener_filter
from hf_sqa.degradations.vocoder import (
    lpc_vocoder as lpc_vocoder,
    mel_vocoder as mel_vocoder,
    phase_noise as phase_noise,
    world_vocoder as world_vocoder,
)
from hf_sqa.degradations.chain import Chain as Chain, presets as presets
from hf_sqa.degradations.folders import Job as Job, Run as Run, degrade_files as degrade_files
