"""How good does this speech sound? Speech quality models as Hugging Face models, pipeline and command line.

Importing `hf_sqa` registers every family with transformers' Auto classes, and the task `audio-quality` with `pipeline`, as soon as
transformers is imported too.
"""

from typing import Any

from hf_sqa.late_registration import register_with_transformers

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "AudioQualityConfig",
    "AudioQualityOutput",
    "AudioQualityPipeline",
    "AutoModelForAudioQuality",
    "QualityMeter",
    "__version__",
    "compare",
    "default_checkpoint",
    "load_recording",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name != "lite" and not name.startswith("_"):  # `from hf_sqa import lite` looks here first
        import hf_sqa.registration as names  # has the names above, families, and the submodules that it imports

        if hasattr(names, name) and (name in __all__ or name[:1].isupper()):
            return getattr(names, name)
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'hf_sqa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_transformers()
