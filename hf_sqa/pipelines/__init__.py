"""The pipeline `pipeline("audio-quality")`, with a default checkpoint that needs no network."""

from hf_sqa.checkpoints import resolve_checkpoint
from hf_sqa.modeling import model_identity
from hf_sqa.pipelines.audio_quality import AudioQualityPipeline
from hf_sqa.pipelines.loading import pipeline
from hf_sqa.pipelines.meter import QualityMeter
from hf_sqa.short_names import default_checkpoint, models_at_hand

__all__ = [
    "AudioQualityPipeline",
    "QualityMeter",
    "default_checkpoint",
    "model_identity",
    "models_at_hand",
    "pipeline",
    "resolve_checkpoint",
]
