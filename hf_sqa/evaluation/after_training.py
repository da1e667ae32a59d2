"""The section `evaluation` of a recipe: evaluate a trained model on the test sets that the recipe names."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_sqa.evaluation.suite import SuiteOptions, evaluate_checkpoint, load_scorer, markdown_table
from hf_sqa.metrics import METRICS
from hf_sqa.runs import digest_of, whole_file, write_whole
from hf_sqa.training.recipe import Recipe, Source, load_recipe
from hf_sqa.training.rows import load_source
from hf_sqa.training.run import TrainingResult, run_recipe

#: Files written into the folder of the trained model: a row for each test set, score, level and metric; a table for readers.
ROWS, TABLE = "results.csv", "results.md"
#: Numeric columns; text in other columns may look like numbers.
NUMBERS = {
    **dict.fromkeys(("value", "low", "high"), float),
    **dict.fromkeys(("num_clips", "num_failed", "num_unrated", "num_units"), int),
}


def run_and_evaluate(
    recipe: Any,
    *,
    progress: Callable[[str], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    evaluates: bool = True,
    **options: Any,
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    """Train by a recipe, and evaluate the result on the test sets of its section `evaluation`.

    The test sets are loaded before training begins, so that a missing corpus is reported at once and not days later. Rows of
    agreement with all metrics are written to `results.csv`, and a table to `results.md`, in the folder of the trained model, and
    returned. The same command resumes: a test set that already has rows for these weights and this source is not scored again.

    Args:
        recipe ([`~hf_sqa.training.recipe.Recipe`], path or `dict`): The recipe.
        progress (callable, *optional*): Takes the name of a test set and returns a context manager, whose value is called with
            the number of clips done and their total.
        evaluates (`bool`, *optional*, defaults to `True`): Whether this process evaluates. If several train, only one does.
        **options: Options of [`~hf_sqa.training.run.run_recipe`].

    Raises:
        FileNotFoundError, ValueError: If a test set cannot be loaded, or has no label for any score of the model.
        KeyboardInterrupt: After Ctrl-C; finished test sets are written.
    """
    recipe = load_recipe(recipe)
    test_sets = _loaded(recipe) if evaluates else {}
    result = run_recipe(recipe, **options)
    return result, _evaluate(result, test_sets, progress) if test_sets else []


def _loaded(recipe: Recipe) -> dict[str, tuple[Source, Any]]:
    """Load the test sets, by unique name: the corpus, with a number if a corpus is named twice."""
    loaded: dict[str, tuple[Source, Any]] = {}
    for place, source in enumerate(recipe.evaluation):
        plain = Path(source.name).stem if source.table is not None else source.name
        numbered = (f"{plain} ({number})" for number in itertools.count(2))
        name = next(name for name in itertools.chain([plain], numbered) if name not in loaded)
        try:
            loaded[name] = source, load_source(source, key=f"evaluation.{place}")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} To train without test sets, add `'evaluation=[]'`.") from error
    return loaded


def _evaluate(
    result: TrainingResult,
    test_sets: Mapping[str, tuple[Source, Any]],
    progress: Callable[[str], contextlib.AbstractContextManager[Any]],
) -> list[dict[str, Any]]:
    scorer = load_scorer(str(result.output_dir))
    options = SuiteOptions(metrics=tuple(METRICS))
    weights = scorer.identity()["weights"]
    known = _read(result.output_dir)
    rows: list[dict[str, Any]] = []
    for name, (source, dataset) in test_sets.items():
        source_digest = digest_of(asdict(source))
        done = [row for row in known if (row["test_set"], row["weights"], row["source"]) == (name, weights, source_digest)]
        if not done:
            with progress(name) as update:
                evaluated = evaluate_checkpoint(
                    scorer, dataset, test_set=name, options=options, progress=update if callable(update) else None
                )
            if not evaluated.complete:
                raise KeyboardInterrupt
            done = [{**row, "weights": weights, "source": source_digest} for row in evaluated.rows]
        rows += done
        _write(result.output_dir, rows)
    return rows


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pandas

    with whole_file(folder / ROWS) as unfinished:
        pandas.DataFrame(rows).to_csv(unfinished, index=False, lineterminator="\n")
    metrics = [f"utt_{metric}" for metric in METRICS]
    scores = dict.fromkeys(row["score"] for row in rows)
    write_whole(folder / TABLE, "\n".join(f"`{score}`\n\n{markdown_table(rows, metrics=metrics, score=score)}" for score in scores))


def _read(folder: Path) -> list[dict[str, Any]]:
    """Read the rows written before; none if the file does not exist. An empty number becomes NaN."""
    import pandas

    if not (folder / ROWS).is_file():
        return []
    frame = pandas.read_csv(folder / ROWS, dtype=str, keep_default_na=False, na_values=[""]).astype(NUMBERS)
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return rows
