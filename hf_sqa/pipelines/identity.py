"""Which model gave a score: name, revision, and digests of the weights and of everything done to the audio before them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_sqa.audio.recording import RESAMPLING_QUALITY

DIGEST_CHARACTERS = 16


def model_identity(model: PreTrainedModel, feature_extractor: Any, **scoring_options: Any) -> dict[str, str | None]:
    """Identity of a score: equal identities give equal scores for the same recording.

    Args:
        model (`PreTrainedModel`): The model, loaded.
        feature_extractor: Its feature extractor.
        **scoring_options: Everything else that moves a score, such as `mode` and `hop_seconds`.

    Returns:
        `dict`: `id`, `revision` (commit on the Hub, `None` for a local folder), `weights` (SHA-256 over names, types and values,
        first 16 characters) and `preprocessing` (SHA-256 over extractor, resampling, score mapping and options, first 16
        characters).
    """
    config = model.config
    name = getattr(config, "checkpoint_name", None) or config._name_or_path or type(model).__name__
    described = {"extractor": feature_extractor.to_dict(), "resampling": RESAMPLING_QUALITY, **scoring_options}
    if getattr(config, "score_mapping", None):
        described["score_mapping"] = config.score_mapping
    return {
        "id": Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name,
        "revision": getattr(config, "_commit_hash", None),
        "weights": weights_digest(model),
        "preprocessing": _digest(json.dumps(described, sort_keys=True, default=str).encode()),
    }


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over names, types and values of all parameters and buffers, first 16 characters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:DIGEST_CHARACTERS]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]
