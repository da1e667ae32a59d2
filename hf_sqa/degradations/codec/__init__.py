"""Speech and audio codecs: waveforms are coded and decoded in memory, and the delay of the codec is removed."""

from hf_sqa.degradations.codec.amr import amr_nb, amr_wb
from hf_sqa.degradations.codec.codec2 import codec2
from hf_sqa.degradations.codec.ffmpeg import aac
from hf_sqa.degradations.codec.lyra import lyra
from hf_sqa.degradations.codec.opus import opus
from hf_sqa.degradations.codec.shared_library import CodecUnavailableError
from hf_sqa.degradations.codec.sound_file import adpcm, g711, g726, gsm, mp3, vorbis
from hf_sqa.degradations.codec.speex import speex

__all__ = [
    "CodecUnavailableError",
    "aac",
    "adpcm",
    "amr_nb",
    "amr_wb",
    "codec2",
    "g711",
    "g726",
    "gsm",
    "lyra",
    "mp3",
    "opus",
    "speex",
    "vorbis",
]
