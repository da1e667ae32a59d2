"""Calibrate a checkpoint's intervals on your own rated clips, and measure their coverage on unseen clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_sqa.blocks.score_intervals import MIN_CLIPS, fit_score_interval, measured_coverage
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.finetune.folder import refuse_used
from hf_sqa.finetune.plan import choose_groups
from hf_sqa.finetune.rated_clips import RatedClips, Track, rated_scores
from hf_sqa.modeling import weights_digest
from hf_sqa.pipelines import pipeline
from hf_sqa.runs import whole_folder

#: Nominal coverages to measure and report.
ASKED = (0.8, 0.9)


def describe_interval(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | None, *, data_name: str, grouped_by: str | None = None
) -> dict[str, Any]:
    """Return the calibration of an interval (see [`~hf_sqa.blocks.score_intervals.fit_score_interval`]) with the name of its clips,
    their grouping, and its coverage on clips that it has not seen.

    Raises:
        ValueError: If there are fewer than 20 clips, or too few to measure the coverage.
    """
    groups = groups if groups is not None and len(set(groups)) > 1 else None
    calibration = fit_score_interval(scores, labels, groups) | {"data": data_name}
    if groups is not None and grouped_by is not None:
        calibration["grouped_by"] = grouped_by
    measured = []
    for asked in ASKED:
        try:
            measured.append({"set": data_name, "seen": False, **measured_coverage(scores, labels, groups, asked)})
        except ValueError:  # too few clips remain without a part for this share
            continue
    return calibration | {"measured": measured}


def calibrated_intervals(
    model: Any, scores: np.ndarray, clips: RatedClips, names: Sequence[str], data_name: str, grouped_by: str | None
) -> tuple[dict[str, Any], dict[str, ValueError]]:
    """Fit a model's `score_intervals` to its scores `(num_clips, num_scores)`; return them, and the reasons for missing ones."""
    intervals, problems, digest = {}, {}, weights_digest(model)
    for index, name in enumerate(names):
        labels = clips.labels[:, index]
        try:
            described = describe_interval(scores[:, index], labels, clips.groups, data_name=data_name, grouped_by=grouped_by)
            intervals[name] = described | {"weights": digest}
        except ValueError as error:
            problems[name] = error
    return intervals, problems


def calibrate(
    checkpoint: str,
    rated: Any,
    output: str | os.PathLike[str],
    *,
    group: str | None = None,
    base_name: str | None = None,
    data_name: str = "the rated clips",
    device: str | None = None,
    announce: Callable[[str], None] | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Write a copy of a checkpoint with calibrated intervals.

    Args:
        rated (`datasets.Dataset`): Rated clips in the schema of `hf_sqa.data`, without clips that the checkpoint was trained on.
        group (`str`, *optional*): Column of the groups of clips; found by its usual name if not given.
        checkpoint, output, base_name, data_name, announce, track: As in [`~hf_sqa.finetune.run.finetune`].

    Returns:
        `dict`: `score_intervals` as in the configuration, `base_model`, `num_clips`, and `excluded` clips with reasons.

    Raises:
        OSError, ValueError: If the table or the checkpoint cannot be used, or there are fewer than 20 rated clips.
        FileExistsError: If the folder is not empty.
    """
    announce = announce or (lambda line: None)
    track = track or (lambda items, title, total: items)
    folder = Path(output)
    refuse_used(folder)
    original = load_checkpoint(checkpoint, merge=True, dtype="float32")
    model = original.model
    names = rated_scores(model, rated, data_name)
    column, sentence = choose_groups(rated, group)
    announce(sentence)
    clips = RatedClips.read(rated, names, column, model.config.sampling_rate, track, at_least=MIN_CLIPS)
    scorer = pipeline(model=model, feature_extractor=original.feature_extractor, device=device)
    scores = np.full((len(clips), len(names)), np.nan)
    excluded = list(clips.excluded)
    for row, audio in enumerate(track(clips.audio, "scoring", len(clips))):
        scored = scorer(audio, on_error="row")
        if scored["status"] == "ok":
            scores[row] = [scored[name] for name in names]
        else:
            excluded.append({"file": clips.names[row], "code": scored["code"], "reason": scored["reason"]})
    intervals, problems = calibrated_intervals(model, scores, clips, names, data_name, column)
    for problem in problems.values():
        raise problem
    model.config.score_intervals = intervals
    model.config.checkpoint_name = Path(base_name or checkpoint).name
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        original.feature_extractor.save_pretrained(unfinished)
    return {
        "score_intervals": intervals,
        "base_model": base_name or checkpoint,
        "num_clips": len(clips),
        "grouped_by": column,
        "excluded": excluded,
    }
