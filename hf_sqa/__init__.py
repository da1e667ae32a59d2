"""How good does this speech sound? Speech quality models the Hugging Face way.

Importing `hf_sqa` registers every family with transformers' Auto classes, and the task `audio-quality` with `pipeline`.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AudioError": "hf_sqa.audio",
    "load_recording": "hf_sqa.audio",
    "AudioQualityConfig": "hf_sqa.configuration",
    "AudioQualityOutput": "hf_sqa.outputs",
    "AudioQualityPipeline": "hf_sqa.pipelines",
    "AutoModelForAudioQuality": "hf_sqa.auto",
    "default_checkpoint": "hf_sqa.pipelines",
    "pipeline": "hf_sqa.pipelines",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name[:1].isupper() and hasattr(models := import_module("hf_sqa.models"), name):  # a family's model or configuration
        return getattr(models, name)
    raise AttributeError(f"module 'hf_sqa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


# The command `hf-sqa` must not wait seconds for torch before it prints its help; its commands import what they need.
if Path(sys.argv[0]).stem != "hf-sqa":
    import_module("hf_sqa.pipelines")
