"""How good does this speech sound? Speech quality models the Hugging Face way.

Importing `hf_sqa` registers every family with transformers' Auto classes, and the task `audio-quality` with `pipeline`.
"""

import sys
from typing import Any

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
    if name in __all__ or name[:1].isupper():  # also a family's model or configuration
        import hf_sqa.registration as names

        if hasattr(names, name):
            return getattr(names, name)
    raise AttributeError(f"module 'hf_sqa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_on_the_way_to_lite() -> bool:
    """Whether this import is part of importing `hf_sqa.lite`, which must work where there is no torch."""
    if "hf_sqa.lite" in sys.orig_argv:  # python -m
        return True
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        if str(frame.f_locals.get("name")).startswith("hf_sqa.lite"):
            return True
        frame = frame.f_back
    return False


# The command `hf-sqa` must not wait seconds for torch before it prints its help.
if "hf_sqa_command" not in sys.modules and not _is_on_the_way_to_lite():
    import hf_sqa.registration  # noqa: F401
