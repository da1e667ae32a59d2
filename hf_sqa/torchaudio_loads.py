"""Reports in one line a torchaudio that does not match torch: transformers imports it if installed, and would fail with it.

This module is imported before the families. hf_sqa itself does not need torchaudio.
"""

from __future__ import annotations

import importlib.metadata

try:
    import transformers.audio_utils  # noqa: F401
except (ImportError, OSError, RuntimeError, AttributeError) as error:
    trace, is_torchaudio = error.__traceback__, False
    while trace is not None:
        is_torchaudio = is_torchaudio or trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "torchaudio"
        trace = trace.tb_next
    if not is_torchaudio:
        raise
    found = {name: importlib.metadata.version(name) for name in ("torch", "torchaudio")}
    raise ImportError(
        f"torchaudio {found['torchaudio']} does not load beside torch {found['torch']} ({error}), and transformers imports it. "
        "Remove it, for hf_sqa needs none (`pip uninstall torchaudio`), or install the release and build that belong to this torch."
    ) from None
