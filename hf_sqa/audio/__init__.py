"""Audio in: any source becomes a checked mono recording at the rate a model wants. NumPy only."""

from hf_sqa.audio.findings import REFUSALS, WARNINGS, AudioError, Finding
from hf_sqa.audio.gate import active_level
from hf_sqa.audio.recording import Recording, load_or_refuse, load_recording, resample
from hf_sqa.audio.sources import open_stream
from hf_sqa.folders import AUDIO_SUFFIXES

__all__ = [
    "AUDIO_SUFFIXES",
    "REFUSALS",
    "WARNINGS",
    "AudioError",
    "Finding",
    "Recording",
    "active_level",
    "load_or_refuse",
    "load_recording",
    "open_stream",
    "resample",
]
