"""Use: `pipeline("audio-quality")`, with a default checkpoint that needs no network."""

from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import hf_sqa.models  # noqa: F401  # a pipeline is of use only with the families registered
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.pipelines.audio_quality import AudioQualityPipeline
from hf_sqa.pipelines.checkpoints import DefaultModel, default_checkpoint, models_at_hand, resolve_checkpoint
from hf_sqa.pipelines.identity import model_identity

__all__ = [
    "AudioQualityPipeline",
    "default_checkpoint",
    "model_identity",
    "models_at_hand",
    "pipeline",
    "resolve_checkpoint",
]

PIPELINE_REGISTRY.supported_tasks.pop("audio-quality", None)  # registering twice, as a reload does, would only warn
PIPELINE_REGISTRY.register_pipeline(
    "audio-quality",
    pipeline_class=AudioQualityPipeline,
    pt_model=AutoModelForAudioQuality,
    default=DefaultModel(),
    type="audio",
)


def pipeline(model: Any = None, **kwargs: Any) -> AudioQualityPipeline:
    """`transformers.pipeline("audio-quality", ...)` that also knows checkpoints by their short name.

    Args:
        model (*optional*): `"default"`, `"distill-mos-v7"`, a folder, a Hub id, or a loaded model (then with
            `feature_extractor`); the default if not given.
        **kwargs: Anything `transformers.pipeline` or [`AudioQualityPipeline`] takes: `device`, `dtype`, `mode`, `hop_seconds`, ...
    """
    return transformers.pipeline("audio-quality", model=resolve_checkpoint(model), pipeline_class=AudioQualityPipeline, **kwargs)
