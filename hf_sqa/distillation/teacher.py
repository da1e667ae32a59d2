"""Teachers: models that label windows, with what they compute before their scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_sqa.audio import AudioError, Recording
from hf_sqa.blocks.sqa_transformer import find_transformer
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.modeling import model_identity


class Teacher:
    """A model that labels windows.

    Args:
        model: Any model of `AutoModelForAudioQuality`, loaded.
        feature_extractor: Its feature extractor.

    Attributes:
        identity (`dict`): Of [`~hf_sqa.pipelines.model_identity`]; other weights, precision or extractor make another teacher.
    """

    def __init__(self, model: Any, feature_extractor: Any):
        self.model, self.feature_extractor = model.eval(), feature_extractor
        self.identity = model_identity(model, feature_extractor, mode=model.modes[0])

    @property
    def description(self) -> dict[str, Any]:
        """Everything that decides on its labels, ready for JSON."""
        config = self.model.config
        return {
            "identity": self.identity,
            "score_names": config.score_names,
            "score_min": config.score_min,
            "score_max": config.score_max,
            "sampling_rate": config.sampling_rate,
        }

    @property
    def digest(self) -> str:
        """Sixteen digits that differ where its labels could; what it is called, and where it lies, does not count."""
        named = {"id", "revision"}
        identity = {name: value for name, value in self.identity.items() if name not in named}
        content = json.dumps(self.description | {"identity": identity}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def label(
        self, recordings: Sequence[Recording], frames: list[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores float32 `(W, L)` and pooled features float32 `(W, D)` of recordings at its sampling rate.

        A recording at which the model raises [`AudioError`], or that gets a score that is not finite, has NaN. Where a list is
        given for `frames`, it gets an array `(W', F, 2 D)` for every call of the network.
        """
        with pooled_features(self.model) as pooled, transformer_frames(self.model, frames):
            try:
                results = self.model.score_recordings(recordings, self.feature_extractor)
            except AudioError:
                if len(recordings) > 1:
                    return _stacked([self.label([recording]) for recording in recordings])
                return np.full((1, self.model.config.num_labels), np.nan, np.float32), None
            scores = np.stack([result.scores for result in results]).astype(np.float32)
            scores[~np.isfinite(scores).all(axis=1)] = np.nan
            features = np.concatenate(pooled) if pooled else None
        # Windows of one recording have features each; only where there is one a recording is it clear whose they are.
        return scores, features if features is not None and len(features) == len(recordings) else None


def load_teacher(options: TeacherOptions) -> Teacher:
    """A teacher by its options.

    Raises:
        OSError, ValueError: If it is not at hand.
    """
    loaded = load_checkpoint(options.checkpoint, merge=True, dtype=getattr(torch, options.dtype))
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Teacher(loaded.model, loaded.feature_extractor)


def check_teacher(teacher: Any, student: Any, options: TeacherOptions) -> None:
    """Refuse a teacher whose scores are not those of the student, or on another scale, unless the recipe says how to map them.

    Args:
        teacher, student (`AudioQualityConfig`): Configurations.
        options ([`TeacherOptions`]): What the recipe says.

    Raises:
        ValueError: Naming both sides and what to write.
    """
    names = {one: (options.scores or {}).get(one, one) for one in student.score_names}
    for one, theirs in names.items():
        if theirs not in teacher.score_names:
            raise ValueError(
                f"Expected the teacher {options.checkpoint!r} to have the score {theirs!r} for the student's {one!r}, got "
                f"{', '.join(teacher.score_names)}; name its score by `scores: {{{one}: ...}}`, or choose `student.scores`."
            )
    if unknown := sorted(set(options.scores or {}) - set(student.score_names)):
        raise ValueError(
            f"Expected `scores` to map the student's scores ({', '.join(student.score_names)}), got {', '.join(unknown)}."
        )
    ours, theirs_ = (student.score_min, student.score_max), (teacher.score_min, teacher.score_max)
    if ours != theirs_ and options.align == "none":
        raise ValueError(
            f"Expected the teacher {options.checkpoint!r} on the student's scale, {ours[0]:g} to {ours[1]:g}, got {theirs_[0]:g} "
            f"to {theirs_[1]:g}; map it by `align: scale`, or give the student `score_min` and `score_max` of the teacher."
        )


@contextmanager
def pooled_features(model: Any) -> Iterator[list[np.ndarray]]:
    """Collects what goes into the last layer, `score_head`, in arrays `(B, D)`, for models that have such a layer after pooling."""
    collected: list[np.ndarray] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() == 2:
            collected.append(inputs[0].detach().float().cpu().numpy())

    head = find_score_head(model)
    handle = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        yield collected
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def transformer_frames(model: Any, collected: list[np.ndarray] | None) -> Iterator[None]:
    """Collects what goes into a model's [`SQATransformer`] after its projection, beside what comes out: `(W, F, 2 D)` float16, two
    frames averaged.

    Raises:
        ValueError: If there is a list to fill, and the model has no such transformer.
    """
    if collected is None:
        yield
        return
    transformer = find_transformer(model)
    if transformer is None:
        raise ValueError(f"Expected a teacher with an SQATransformer for labels of frames, got {type(model).__name__}.")
    projected: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        both = torch.cat([projected.pop(), inputs[0]], dim=2).detach().float()
        collected.append(F.avg_pool1d(both.transpose(1, 2), 2).transpose(1, 2).half().cpu().numpy())

    handles = [
        transformer.positions.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0])),
        transformer.pooling.register_forward_pre_hook(keep),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_score_head(model: Any) -> torch.nn.Linear | None:
    """The linear layer named `score_head`, if a model has exactly one."""
    found = [
        module for name, module in model.named_modules() if name.endswith("score_head") and isinstance(module, torch.nn.Linear)
    ]
    return found[0] if len(found) == 1 else None


def _stacked(parts: list[tuple[np.ndarray, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray | None]:
    return np.concatenate([scores for scores, _ in parts]), None
