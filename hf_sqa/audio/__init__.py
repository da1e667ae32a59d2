"""Audio in: any source becomes a checked mono recording at the rate a model wants. NumPy only."""

from hf_sqa.audio.findings import REFUSALS as REFUSALS, WARNINGS as WARNINGS, AudioError as AudioError, Finding as Finding
from hf_sqa.audio.gate import active_level as active_level
from hf_sqa.audio.recording import (
    Recording as Recording,
    load_or_refuse as load_or_refuse,
    load_recording as load_recording,
    resample as resample,
)
from hf_sqa.audio.sources import open_stream as open_stream
from hf_sqa.folders import AUDIO_SUFFIXES as AUDIO_SUFFIXES
