"""What `import hf_sqa` does: register families and task with transformers, give publishing to the models, offer names."""

from pathlib import Path
from typing import Any

import hf_sqa.torchaudio_loads  # noqa: F401  # first: it explains why transformers cannot be imported, if so
from hf_sqa.audio import AudioError as AudioError, load_recording as load_recording
from hf_sqa.auto import AutoModelForAudioQuality as AutoModelForAudioQuality
from hf_sqa.configuration import AudioQualityConfig as AudioQualityConfig
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.models import *  # noqa: F403
from hf_sqa.outputs import AudioQualityOutput as AudioQualityOutput
from hf_sqa.pipelines import (
    AudioQualityPipeline as AudioQualityPipeline,
    QualityMeter as QualityMeter,
    default_checkpoint as default_checkpoint,
    pipeline as pipeline,
)


def compare(*sources: Any, **options: Any) -> Any:
    """Which system is better? See [`hf_sqa.scoring.comparison.compare`]."""
    from hf_sqa.scoring.comparison import compare as compare_sources  # readers of corpora are slow to import

    return compare_sources(*sources, **options)


def _publish(model: Any, repo_id: str, **options: Any) -> Any:
    from hf_sqa.hub.publish import publish_model  # the Hub's client and the cards are slow to import

    return publish_model(model, repo_id, **options)


def _add_code(folder: str | Path) -> Any:
    from hf_sqa.hub.bundle import add_code

    return add_code(folder)


AudioQualityPipeline.add_code = staticmethod(_add_code)  # type: ignore[assignment]
AudioQualityPreTrainedModel.publish = staticmethod(_publish)  # type: ignore[assignment]
