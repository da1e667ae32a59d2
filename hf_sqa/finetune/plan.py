"""Split a small listening test without leaks: clips to train on, to choose the epoch by, and to judge on.

A talker, system or source on both sides makes held-out numbers too good, so whole groups are held out. If there are too few clips
or groups to hold some out, every clip is judged by a model that was trained without its group (cross-fitting).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_sqa.data.corpora.own_table import USUAL_NAMES
from hf_sqa.data.schema import TEXT_COLUMNS
from hf_sqa.data.splits import stratified_split
from hf_sqa.finetune.calibration import MIN_CLIPS as MIN_CLIPS_TO_CALIBRATE, make_folds

#: Columns whose values clips may share, most likely leak first.
GROUP_COLUMNS = ("talker_id", "source_id", "system_id")
#: Least number of rated clips.
MIN_CLIPS = 10
#: With this many clips and groups, a fifth is held out. With fewer, its interval would be too wide, and evaluation is cross-fitted.
MIN_CLIPS_TO_HOLD_OUT, MIN_GROUPS_TO_HOLD_OUT = 300, 25
NUM_FOLDS, CALIBRATION_FOLDS = 5, 10
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Part:
    """Row numbers of one training: to train on, to choose the epoch by, and to judge."""

    name: str
    train: np.ndarray
    validation: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    test: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


@dataclass
class Plan:
    """The plan of an evaluation."""

    kind: str  # `"holdout"`, `"crossfit"` or `"table"` (a table of held-out clips was given)
    parts: list[Part]  # one for each training
    sentence: str  # the plan in words
    remarks: list[str] = field(default_factory=list)  # caveats for readers of the numbers
    final: Part | None = None  # training of the model to keep, on all clips; `None` if the only part yields it


def schema_column(name: str) -> str | None:
    """Return the schema column that a user's name for a group means (`talker` is `talker_id`); `None` if there is none."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    for column in TEXT_COLUMNS:
        if plain == column or plain in {name.lower().replace(" ", "_") for name in USUAL_NAMES.get(column, ())}:
            return column
    return None


def choose_groups(data: Any, asked: str | None) -> tuple[str | None, str]:
    """Choose the column whose values stay together, and return it with a sentence about it."""
    if asked is not None:
        values = list(data[asked])
        unknown = sum(value is None for value in values)
        if unknown:
            raise ValueError(
                f"Expected a {asked} for every clip, got none for {unknown} of {len(values)}; fill them in, or group by another "
                "column."
            )
        names = sorted(set(values))
        if len(names) < 2:
            raise ValueError(
                f"Expected two groups or more in {asked}, got one ({names[0]!r}): nothing could be held out. Group by another "
                "column, rate clips of another one, or split clip by clip without `--group`, which says nothing about new groups."
            )
        return asked, f"Clips are kept together by {asked}: {len(names)} groups."
    for column in GROUP_COLUMNS:
        values = list(data[column])
        if None not in values and 2 < len(set(values)) < len(values):
            return (
                column,
                f"Clips are kept together by {column}, found in the table: {len(set(values))} groups (`--group` chooses another).",
            )
    return None, (
        "No column of talkers, sources or systems groups the clips, so they are split one by one. If some have one in common, the "
        "numbers below are too good: name the column with `--group`."
    )


def plan_for(clips: Any, held_out: Any, *, num_folds: int | None, calibrate: str | None, seed: int) -> Plan:
    """Plan the parts of rated clips, for training or calibration."""
    labels = clips.labels[:, 0]
    if calibrate is None:
        return make_plan(labels, clips.groups, num_folds=num_folds, held_out=held_out is not None, seed=seed)
    check_labels(labels)
    needed = MIN_CLIPS_TO_CALIBRATE.get(calibrate, MIN_CLIPS)
    if held_out is not None:
        return Plan("table", [Part("all", np.arange(len(clips)))], f"The mapping is fitted on {len(clips)} clips.")
    most = CALIBRATION_FOLDS if clips.groups is None else len(set(clips.groups))
    num_folds = min(CALIBRATION_FOLDS, most, len(clips))
    folds = make_folds(np.nan_to_num(labels, nan=3.0), num_folds, groups=clips.groups, seed=seed)
    if np.bincount(folds).max() > len(clips) - needed:
        raise ValueError(
            f"Expected {needed} clips or more outside every fold to fit a mapping of the {calibrate} order, got fewer of "
            f"{len(clips)}: rate more, or give held-out clips by `--test`."
        )
    parts = [
        Part(f"fold {fold + 1}", np.flatnonzero(folds != fold), test=np.flatnonzero(folds == fold)) for fold in range(num_folds)
    ]
    unit = "group" if clips.groups is not None else "fold"
    sentence = (
        f"The mapping is fitted on all {len(clips)} clips; the numbers are cross-fitted: each clip is mapped by a fit without its "
        f"{unit}, {num_folds} in all. One mapping keeps ranks; correlations differ here only because several are pooled."
    )
    return Plan("crossfit", parts, sentence)


def make_plan(
    labels: np.ndarray, groups: Sequence[str] | None, *, num_folds: int | None = None, held_out: bool = False, seed: int = 0
) -> Plan:
    """Plan the parts of a rated table from its labels of one score, `(num_clips,)`, NaN where unrated, and its groups.

    With `num_folds=0` a fifth is held out; without `num_folds`, the numbers of clips and groups decide. If the held-out clips come
    from another table (`held_out`), all of these train.

    Raises:
        ValueError: If there are fewer than ten rated clips, all labels are equal, or there are fewer groups than folds.
    """
    rated = check_labels(labels)
    names = None if groups is None else np.asarray(groups, dtype=str)
    everything = np.arange(len(labels))
    if held_out:
        part, remarks = _with_validation("all", everything, labels, names, seed)
        sentence = f"Trained on {len(part.train)} clips, the epoch chosen by {len(part.validation)}."
        return Plan("table", [part], sentence, remarks)
    num_groups = None if names is None else len(np.unique(names))
    is_small = len(rated) < MIN_CLIPS_TO_HOLD_OUT or (num_groups is not None and num_groups < MIN_GROUPS_TO_HOLD_OUT)
    if num_folds is None:
        num_folds = min(NUM_FOLDS, num_groups or NUM_FOLDS) if is_small else 0
    units = f"{len(rated)} rated clips" + ("" if num_groups is None else f" of {num_groups} groups")
    if num_folds == 0:
        rest, test = _split(everything, labels, names, HELD_OUT_SHARE, seed)
        part, remarks = _with_validation("holdout", rest, labels, names, seed, test=test)
        sentence = (
            f"{units}: {len(test)} clips are held out, {len(part.validation)} choose the epoch, {len(part.train)} train; the "
            "numbers are of the model that is kept."
        )
        return Plan("holdout", [part], sentence, remarks)
    filled = np.nan_to_num(labels, nan=float(np.nanmean(labels)))
    folds = make_folds(filled, num_folds, groups=None if names is None else names.tolist(), seed=seed)
    trainings = [
        _with_validation(f"fold {fold + 1} of {num_folds}", np.flatnonzero(folds != fold), labels, names, seed, test=rows)
        for fold, rows in enumerate(np.flatnonzero(folds == number) for number in range(num_folds))
    ]
    final = _with_validation("all", everything, labels, names, seed)
    remarks = list(dict.fromkeys(remark for _, of_part in [*trainings, final] for remark in of_part))
    sentence = (
        f"{units} are too few to hold some out for good, so the evaluation is cross-fitted: {num_folds} trainings, each judged on "
        f"the {'clips' if names is None else 'groups'} it did not meet. The model that is kept is trained once more on all; the "
        "numbers are of the way it was made, each time from fewer clips."
    )
    return Plan("crossfit", [part for part, _ in trainings], sentence, remarks, final[0])


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return the rated rows. Refuse labels from which nothing can be learned."""
    rated = np.flatnonzero(~np.isnan(labels))
    if len(rated) < MIN_CLIPS:
        raise ValueError(
            f"Expected {MIN_CLIPS} rated clips or more, got {len(rated)}: fewer are too few to train on or to test with. "
            "Rate more; from 20 on `--calibrate first` is worth a try, from about 100 on fine-tuning."
        )
    if np.ptp(labels[rated]) == 0:
        raise ValueError(
            f"Expected labels that differ, got {labels[rated][0]:g} for all {len(rated)} clips: there is nothing to learn and no "
            "correlation to compute. Check that the right column was taken (`--column mos=<column>`)."
        )
    return rated


def shared_values(data: Any, first: np.ndarray, second: np.ndarray, group: str | None, other: Any = None) -> dict[str, str]:
    """Return a sentence for each column, except the group, that has values on both sides. `second` are rows of `other` if given."""
    sentences = {}
    for column in (*GROUP_COLUMNS, "condition_id"):
        if column == group:
            continue
        values, others = list(data[column]), list((other if other is not None else data)[column])
        mine = {values[row] for row in first} - {None}
        both = mine & {others[row] for row in second}
        if both and len(mine) > 1:
            sentences[column] = (
                f"{len(both)} of {len(mine)} values of {column} are on both sides: the numbers say how the model does on clips "
                f"that share them, not on new ones (`--group {column}` would)."
            )
    return sentences


def _split(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    data: dict[str, Any] = {"mos": np.nan_to_num(labels[rows], nan=float(np.nanmean(labels)))}
    if groups is not None:
        data["group"] = groups[rows]
    split = stratified_split(
        data, validation_share=share, group_columns="group" if groups is not None else (), corpus_column=None, seed=seed
    )
    return rows[split.train], rows[split.validation]


def _with_validation(
    name: str, rows: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, seed: int, **judged: np.ndarray
) -> tuple[Part, list[str]]:
    """Split rows into those to train on and those to choose the epoch by, and return them with remarks."""
    num_groups = 0 if groups is None else len(np.unique(groups[rows]))
    by_group = groups is not None and num_groups >= 3
    share = max(HELD_OUT_SHARE, 2 / max(len(rows), 1))
    train, validation = _split(rows, labels, groups if by_group else None, share, seed)
    remarks = []
    if groups is not None and not by_group:
        remarks.append(
            f"With {num_groups} groups to train on, none could be spared to choose the epoch: single clips do, and stop later than "
            "they should."
        )
    if not math.isfinite(np.nanmean(labels[validation])):
        raise ValueError("Expected rated clips to choose the epoch by, got none; rate more clips.")
    return Part(name, train, validation, **judged), remarks
