"""The folder of a fine-tuning: checkpoint, adapter, report, and the scores of every clip before and after."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.checkpoint_files import CARD_FILE, copy_checkpoint
from hf_sqa.finetune.plan import Plan
from hf_sqa.finetune.rated_clips import RatedClips
from hf_sqa.runs import check_same_run, move_into, whole_file, write_whole

WORK, STATE, REPORT, PREDICTIONS = ".finetune", "state.json", "report.json", "predictions.csv"


def check_folder(folder: Path, definition: dict[str, Any], resume: bool) -> None:
    """Refuse a folder that holds something else.

    Raises:
        FileExistsError: If it holds a finished run, other files, or an interrupted run and `resume` is off.
        RunMismatch: If it holds a run with other options, clips or model; the message names the difference.
    """
    state = folder / WORK / STATE
    if (folder / REPORT).exists():
        clean_up(folder)  # the run may have been killed before it did so
        raise FileExistsError(f"{str(folder)!r} holds a finished run; read its {REPORT}, or choose another folder.")
    if state.exists():
        if not resume:
            raise FileExistsError(
                f"{str(folder)!r} holds a run that was cut short: go on with it by `--resume`, delete it, or choose another folder."
            )
        begin(folder, definition)
    else:
        refuse_used(folder)


def refuse_used(folder: Path) -> None:
    """Refuse a folder that is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"Expected an empty or new folder, got {str(folder)!r}, which holds something else.")


def begin(folder: Path, definition: dict[str, Any]) -> None:
    """Record what defines this run, or compare it with the record, for `--resume`."""
    check_same_run(folder / WORK / STATE, definition, "give it the same, delete the folder, or choose another one")


def clean_up(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def write_checkpoint(
    folder: Path,
    model: Any,
    extractor: Any,
    mapping: dict[str, list[float]],
    name: str,
    base: tuple[str, str],
    adapter: Path | None,
) -> None:
    """Write the checkpoint. Files are moved from a finished copy, so each is whole."""
    unfinished = folder / WORK / "finished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.config.checkpoint_name = name
    model.config.score_mapping = mapping or None
    model.save_pretrained(unfinished)
    extractor.save_pretrained(unfinished)
    if adapter is not None:
        checkpoint, base_name = base
        copy_checkpoint(adapter, unfinished / "adapter", without=[CARD_FILE])
        extractor.save_pretrained(unfinished / "adapter")
        path = unfinished / "adapter" / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        # Loading the adapter looks for the base here: an id on the Hub, or the absolute path of a folder.
        config["base_model_name_or_path"] = str(Path(checkpoint).absolute()) if Path(checkpoint).is_dir() else base_name
        write_whole(path, json.dumps(config, indent=1))
    move_into(unfinished, folder)


def write_predictions(
    path: Path, judged: RatedClips, parts: Sequence[str], predictions: dict[str, np.ndarray], scores: Sequence[str]
) -> None:
    """Write a row for every clip that a part of the plan judged, and a row with the reason for every clip that was left out."""
    import pandas

    rows = pandas.DataFrame({"file": judged.names, "group": judged.groups, "part": parts})
    for index, name in enumerate(scores):
        for what, values in {"label": judged.labels, **predictions}.items():
            rows[f"{name}_{what}"] = values[:, index]
    records = [*rows[rows["part"] != ""].to_dict("records"), *judged.excluded]
    table = pandas.DataFrame(records, columns=[*rows.columns, "code", "reason"])
    with whole_file(path, sole_writer=True) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.6f", lineterminator="\r\n")


def for_the_card(by_score: dict[str, Any], data_name: str, plan: Plan) -> list[dict[str, Any]]:
    """Return the numbers in the form that a model card takes."""
    split = {"crossfit": "cross-fitted", "holdout": "held out", "table": "held out"}[plan.kind]
    return [
        {
            "dataset": data_name,
            "metric": metric,
            **{end: interval[end] for end in ("value", "low", "high")},
            "num_clips": compared["num_clips"],
            "score": score,
            "split": split,
            "before": compared["agreement"]["before"][metric]["value"],
        }
        for score, compared in by_score.items()
        for metric, interval in compared["agreement"]["after"].items()
        if interval["value"] is not None
    ]
