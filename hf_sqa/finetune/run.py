"""Fine-tune or calibrate a checkpoint on your own listening test, and report what it gained and how certain that is.

The steps are the same for any family: parts without leaks ([`make_plan`]), scores before, training by [`run_recipe`], scores after
on held-out clips, intervals and a paired comparison ([`compare_before_after`]), and a loadable folder. With few clips, the front of
a model stays frozen, and its outputs are kept in memory ([`FrontMemory`]).
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.checkpoints import is_adapter, load_checkpoint
from hf_sqa.finetune.before_after import compare_before_after
from hf_sqa.finetune.folder import (
    PREDICTIONS,
    REPORT,
    WORK,
    begin,
    check_folder,
    clean_up,
    for_the_card,
    write_checkpoint,
    write_predictions,
)
from hf_sqa.finetune.intervals import calibrated_intervals
from hf_sqa.finetune.plan import MIN_CLIPS, Plan, choose_groups, plan_for, shared_values
from hf_sqa.finetune.rated_clips import RatedClips, Track, clip_name, rated_scores
from hf_sqa.finetune.settings import FinetuneOptions
from hf_sqa.finetune.trial import Outcome, Trial
from hf_sqa.runs import digest_of, locked, write_whole


def finetune(
    checkpoint: str,
    train: Any,
    output: str | os.PathLike[str],
    *,
    options: FinetuneOptions | None = None,
    test: Any = None,
    base_name: str | None = None,
    data_name: str = "the rated clips",
    resume: bool = False,
    announce: Callable[[str], None] | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Fine-tune or calibrate a checkpoint, and return the report that is also written to `report.json`.

    The output folder holds the checkpoint (with `lora`: merged, and the adapter alone in `adapter/`), `report.json` and
    `predictions.csv`, with the scores of every clip before and after.

    Args:
        checkpoint (`str`): Folder or Hub id of the original, or of an adapter.
        train (`datasets.Dataset`): Rated clips in the schema of `hf_sqa.data`.
        output (path): Folder to make.
        options ([`FinetuneOptions`], *optional*): Options.
        test (`datasets.Dataset`, *optional*): Held-out clips; taken from `train` if not given.
        base_name (`str`, *optional*): Name under which the original is cited and found; `checkpoint` if not given.
        data_name (`str`, *optional*): Name of the clips in the report.
        resume (`bool`, *optional*, defaults to `False`): Whether to continue an interrupted run.
        announce (callable, *optional*): Receives lines about progress.
        track (callable, *optional*): Wraps an iterable in a progress bar, given a title and a length.

    Raises:
        OSError, ValueError: If the table, an option, or the checkpoint cannot be used; the message says what to do.
        FileExistsError: If the folder holds something else, or an interrupted run and `resume` is off.
        RunMismatch: If the folder holds a run with other options, clips or model; the message names the difference.
        Locked: If another process is writing to the folder.
        TrainingError, Interrupted: As [`run_recipe`].
    """
    options = options or FinetuneOptions()
    if test is not None and options.folds is not None:
        raise ValueError("Expected `test` or `folds`, got both: with held-out clips of their own there is nothing to fold.")
    announce = announce or (lambda line: None)
    track = track or (lambda items, title, total: items)
    started = time.monotonic()
    folder, base_name = Path(output), base_name or checkpoint
    if options.lora and is_adapter(checkpoint):
        raise ValueError(
            f"Expected a whole checkpoint for `lora`, got the adapter {checkpoint!r}: the new adapter's base would exist nowhere. "
            "Fine-tune the adapter's base, or leave `lora` out."
        )
    original = load_checkpoint(checkpoint, merge=True, dtype="float32")
    model, extractor = original.model, original.feature_extractor
    scores = rated_scores(model, train, data_name)
    definition = _definition(options, base_name, train, test, scores)
    check_folder(folder, definition, resume)

    column, sentence = choose_groups(train, options.group)
    announce(sentence)
    clips, held_out, remarks = _read(train, test, scores, column, model, track)
    plan = plan_for(clips, held_out, num_folds=options.folds, calibrate=options.calibrate, seed=options.seed)
    announce(plan.sentence)
    shared = _shared(clips, held_out, plan, column)
    remarks += [*plan.remarks, *shared.values()]
    for remark in remarks:
        announce(remark)

    trial = Trial(options, checkpoint, folder, model, extractor, scores, clips, held_out, plan, announce, track, column)
    # A failed calibration leaves no folder; an interrupted training leaves one that can be resumed.
    outcome = trial.calibrate(options.calibrate) if options.calibrate is not None else None
    begin(folder, definition)
    with locked(folder / WORK / ".lock"):
        outcome = outcome or trial.train()
        report = _report(trial, outcome, base_name, data_name, shared, remarks)
        report["seconds"] = round(time.monotonic() - started, 1)
        intervals, problems = calibrated_intervals(
            outcome.model, outcome.predictions["after"], trial.judged, scores, f"{data_name}, held out", column
        )
        report["remarks"] += [f"No interval of {score} is calibrated: {problem}" for score, problem in problems.items()]
        report["score_intervals"] = outcome.model.config.score_intervals = intervals or None
        name = report["checkpoint_name"]
        write_checkpoint(folder, outcome.model, extractor, outcome.mapping, name, (checkpoint, base_name), outcome.adapter)
        write_predictions(folder / PREDICTIONS, trial.judged, trial.judged_parts, outcome.predictions, scores)
        write_whole(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n", sole_writer=True)
    clean_up(folder)
    return report


def _definition(options: FinetuneOptions, base_name: str, train: Any, test: Any, scores: Sequence[str]) -> dict[str, Any]:
    tables = {"train": train, "test": test}
    clips = {
        name: digest_of([[clip_name(audio) for audio in table["audio"]], *(list(table[score]) for score in scores)])
        for name, table in tables.items()
        if table is not None
    }
    return {"options": asdict(options), "model": base_name, "scores": list(scores), "clips": clips}


def _read(
    train: Any, test: Any, scores: Sequence[str], column: str | None, model: Any, track: Track
) -> tuple[RatedClips, RatedClips | None, list[str]]:
    rate = model.config.sampling_rate
    clips = RatedClips.read(train, scores, column, rate, track, at_least=MIN_CLIPS)
    remarks = clips.about_excluded()
    held_out = None
    if test is not None:
        held_out = RatedClips.read(test, scores, column, rate, track, at_least=2, name="held-out clips")
        clips, more = clips.without_those_of(held_out)
        remarks += [*held_out.about_excluded(), *more]
    return clips, held_out, remarks + clips.about_repeated()


def _shared(clips: RatedClips, held_out: RatedClips | None, plan: Plan, column: str | None) -> dict[str, str]:
    """Return a sentence for every column whose values occur in both the held-out clips and the others."""
    if held_out is not None:
        return shared_values(clips.data, np.arange(len(clips)), np.arange(len(held_out)), None, held_out.data)
    part = plan.parts[0]
    return shared_values(clips.data, np.concatenate([part.train, part.validation]), part.test, column)


def _compared(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    labels = trial.judged.labels
    is_judged = (~np.isnan(labels)).sum(axis=0) >= 2
    if not is_judged[0]:
        raise ValueError(f"Expected held-out clips with a label {trial.scores[0]!r}, got none; rate them, or leave `--test` out.")
    return {
        name: compare_before_after(
            {what: values[:, index] for what, values in outcome.predictions.items()},
            labels[:, index],
            groups=trial.judged.groups,
            calibration=trial.options.calibrate,
            seed=trial.options.seed,
        )
        for index, name in enumerate(trial.scores)
        if is_judged[index]
    }


def _report(
    trial: Trial, outcome: Outcome, base_name: str, data_name: str, shared: dict[str, str], remarks: list[str]
) -> dict[str, Any]:
    options, plan, clips, held_out, by_score = trial.options, trial.plan, trial.clips, trial.held_out, _compared(trial, outcome)
    first = by_score[trial.scores[0]]
    is_calibrated = options.calibrate is not None
    if shared and first["recommendation"] == "use" and not is_calibrated:
        columns = " and ".join(shared)
        first["verdict"] += f" The held-out clips share {columns} with those it learned from: new ones may gain less."
    remarks = [*remarks, *outcome.remarks, *first["remarks"]]
    if trial.model.config.score_mapping and not is_calibrated:
        remarks.append("The original's score mapping was fitted to its own scores: the fine-tuned model has none.")
    return {
        "checkpoint_name": f"{Path(base_name).name}-{'calibrated' if is_calibrated else 'finetuned'}",
        "base_model": base_name,
        "method": options.method,
        "recommendation": first["recommendation"],
        "verdict": first["verdict"],
        "evaluation_plan": {"kind": plan.kind, "sentence": plan.sentence, "num_parts": len(plan.parts)},
        "remarks": remarks,
        "scores": by_score,
        "score_mapping": outcome.mapping or None,
        "training": outcome.training or None,
        "options": asdict(options),
        "data": {
            "name": data_name,
            "num_clips": len(clips),
            "num_held_out_clips": None if held_out is None else len(held_out),
            "group": trial.group_column,
            "num_groups": None if clips.groups is None else len(set(clips.groups)),
            "languages": sorted(set(clips.data["language"]) - {None, ""}),
            "excluded": clips.excluded + ([] if held_out is None else held_out.excluded),
        },
        "evaluation": for_the_card(by_score, data_name, plan),
    }
