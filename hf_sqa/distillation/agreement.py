"""Agreement of a student with its teachers on windows of unseen talkers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.windows import WindowCache
from hf_sqa.distillation.examples import CachedWindows, kinds_of
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.metrics import agreement, bootstrap_agreement

#: Least number of windows for a correlation within a kind of degradation.
MIN_WINDOWS = 16


def teacher_agreement(
    model: Any,
    cache: WindowCache,
    teachers: Sequence[Teacher],
    split: str = "test",
    seed: int = 0,
    num_windows: int | None = None,
) -> dict[str, Any]:
    """Measure how a student agrees with its teachers on the labelled windows of a split, with intervals over windows.

    For every score, `talkers` and `kinds` hold the `utt_lcc` of each talker, and of each kind of degradation with at least
    `MIN_WINDOWS` windows.
    """
    data = CachedWindows(cache, teachers, model.config, split, num_windows)
    scores = score_windows(model, data)
    result: dict[str, Any] = {"num_windows": len(data), "split": split}
    talkers = np.array([row["talker"] for row in data.facts])
    kinds = [kinds_of(row) for row in data.facts]
    for column, name in enumerate(data.score_names):
        ours, theirs = scores[:, column], data.labels[:, column]
        intervals = bootstrap_agreement(ours, theirs, metrics=["utt_lcc", "utt_srcc", "utt_rmse"], rng=seed)
        windows_of_talker = {talker: talkers == talker for talker in sorted(set(talkers))}
        windows_of_kind = {kind: np.array([kind in of_window for of_window in kinds]) for kind in sorted(set().union(*kinds))}
        lcc_by_talker, lcc_by_kind = (
            {group: agreement(ours[rows], theirs[rows])["utt_lcc"] for group, rows in groups.items() if rows.sum() >= least}
            for groups, least in ((windows_of_talker, 1), (windows_of_kind, MIN_WINDOWS))
        )
        measured = {
            metric: {"value": interval.value, "low": interval.low, "high": interval.high} for metric, interval in intervals.items()
        }
        result[name] = {**measured, "talkers": lcc_by_talker, "kinds": lcc_by_kind}
    return result


@torch.inference_mode()
def score_windows(model: Any, data: CachedWindows) -> np.ndarray:
    """Return a model's scores `(W, L)` of windows, NaN for a window that it refuses."""
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
