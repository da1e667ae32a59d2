"""How well a student agrees with its teachers on windows of talkers it never heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.windows import WindowCache
from hf_sqa.distillation.examples import CachedWindows, kinds_of
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.metrics import agreement, bootstrap_agreement

#: Fewer windows than this say nothing about a kind of degradation.
MIN_WINDOWS = 16


def teacher_agreement(
    model: Any,
    cache: WindowCache,
    teachers: Sequence[Teacher],
    options: Sequence[TeacherOptions],
    split: str = "test",
    seed: int = 0,
    num_windows: int | None = None,
) -> dict[str, Any]:
    """Agreement of a student with its teachers on labelled windows of a split, with intervals over windows.

    `num_windows` counts those of all splits together, as in [`CachedWindows`]; without it, all that are labelled.

    Returns:
        `dict`: By score name `utt_lcc`, `utt_srcc` and `utt_rmse` as `{"value", "low", "high"}`, and `num_windows`; the same below
        `talkers` for each talker alone, and below `kinds` for each kind of degradation that `MIN_WINDOWS` windows or more went
        through.
    """
    data = CachedWindows(cache, teachers, options, model.config, split, num_windows)
    predicted = score_windows(model, data)
    found: dict[str, Any] = {"num_windows": len(data), "split": split}
    talkers = np.array([row["talker"] for row in data.facts])
    for column, name in enumerate(data.score_names):
        ours, theirs = predicted[:, column], data.labels[:, column]
        found[name] = _with_intervals(ours, theirs, seed)
        found[name]["talkers"] = {
            talker: agreement(ours[talkers == talker], theirs[talkers == talker])["utt_lcc"] for talker in sorted(set(talkers))
        }
        found[name]["kinds"] = {
            kind: agreement(ours[own], theirs[own])["utt_lcc"]
            for kind in sorted(set().union(*map(kinds_of, data.facts)))
            if (own := np.array([kind in kinds_of(row) for row in data.facts])).sum() >= MIN_WINDOWS
        }
    return found


@torch.inference_mode()
def score_windows(model: Any, data: CachedWindows) -> np.ndarray:
    """Scores `(W, L)` of windows by a model, NaN where it gives none."""
    model.eval()
    extractor = model.make_feature_extractor()
    scores = np.full((len(data), model.config.num_labels), np.nan, np.float32)
    for row in range(len(data)):
        try:
            recording = load_recording({"array": data.waveform(row), "sampling_rate": data.sampling_rate})
            scores[row] = model.score_recordings([recording], extractor)[0].scores
        except AudioError:
            continue
    return scores


def _with_intervals(ours: np.ndarray, theirs: np.ndarray, seed: int) -> dict[str, Any]:
    drawn = bootstrap_agreement(ours, theirs, metrics=["utt_lcc", "utt_srcc", "utt_rmse"], rng=seed)
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in drawn.items()}
