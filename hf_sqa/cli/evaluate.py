"""`hf-sqa evaluate`: a model on rated test sets, agreement with listeners with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.bars import bar
from hf_sqa.cli.quiet import quiet
from hf_sqa.cli.stopping import stop

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def evaluate(
    corpora: Annotated[
        list[str],
        typer.Argument(
            help="Tables (`mine.csv`), corpora with their folder (`nisqa/TEST_FOR=NISQA_Corpus`), `hub:<repo id>`.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="`default` (Distill-MOS v7), a local folder, or a Hub id.")] = "default",
    score: Annotated[
        list[str] | None,
        typer.Option(help="A score; `mos=g_mos` if the label has another name; may be repeated.", show_default=False),
    ] = None,
    metrics: Annotated[str, typer.Option(help="Out of lcc, srcc, ktau, mse, rmse, mae, separated by commas.")] = "lcc,srcc,rmse",
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Column whose clips are drawn together for the intervals, `none` for single clips; by default the first of "
            "system, condition, source and talker that the test set has.",
            show_default=False,
        ),
    ] = None,
    num_draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws.")] = 10_000,
    split: Annotated[str | None, typer.Option(help="Only clips of this split, such as `test`.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the rows of agreement to `.csv`, `.jsonl` or `.parquet`.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write a row for each clip: label, prediction, why there is none; `.csv`, `.jsonl` or `.parquet`."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips handed to the model together; never changes a score.")] = 1,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode and resample.")] = 0,
    device: Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`, `mps`; the first accelerator, else `cpu`.")] = None,
) -> None:
    """How well does a model agree with listeners? Prints a table with 95 % intervals, a line for each test set, score and level.

    Clips that cannot be scored are counted, and the exit code is then 1. Exit code 2: nothing could be evaluated. After Ctrl-C
    the table covers the clips done, and says so.

    Examples:

    - `hf-sqa evaluate my_test.csv`
    - `hf-sqa evaluate nisqa/TEST_FOR=NISQA_Corpus --model my-model --predictions predictions.csv`
    """
    from hf_sqa.cli.tables import RowWriter

    try:
        writers = {
            name: RowWriter(path, sys.stdout) for name, path in (("rows", output), ("clips", predictions)) if path is not None
        }
    except (OSError, ValueError) as error:
        stop(str(error))
    from hf_sqa.evaluation.suite import SuiteOptions

    try:
        options = SuiteOptions(
            scores=dict(_named(text) for text in score) if score else None,
            metrics=tuple(metric.strip() for metric in metrics.split(",") if metric.strip()),
            cluster=cluster,
            num_draws=num_draws,
        )
        results = _evaluated(model, corpora, split, options, batch_size, num_workers, device)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        stop(" ".join(str(error).split()))
    for result in results:
        identity = {"model": result.identity["id"], "weights": result.identity["weights"], "complete": result.complete}
        for row in result.rows if "rows" in writers else ():
            writers["rows"].write({**identity, **row})
        for clip in result.clips if "clips" in writers else ():
            writers["clips"].write({"test_set": result.test_set, **clip})
    for writer in writers.values():
        writer.close()
    if "-" not in map(str, (output, predictions)):
        _print(results, options.metrics)
    failed = sum(result.num_failed for result in results)
    if failed:
        first = next(clip for result in results for clip in result.clips if clip["status"] != "ok")
        message = f"{failed} clips could not be scored; the first: {first['audio']}: {first['code']}: {first['reason']}"
        typer.echo(message + ("" if predictions else "; --predictions writes them all."), err=True)
    if not results or not results[-1].complete:
        typer.echo("Interrupted: the table covers the clips done.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _evaluated(
    model: str, corpora: list[str], split: str | None, options: Any, batch_size: int, num_workers: int, device: str | None
) -> list[Any]:
    quiet()
    from hf_sqa.evaluation.suite import evaluate_checkpoint, load_scorer

    test_sets = {text: _loaded(text, split) for text in corpora}
    scorer = load_scorer(model, device=device)
    results: list[Any] = []
    for text, dataset in test_sets.items():
        name = text.partition("=")[0]
        with bar(name) as update:
            result = evaluate_checkpoint(
                scorer,
                dataset,
                test_set=Path(name).stem if Path(name).suffix else name,
                options=options,
                batch_size=batch_size,
                num_workers=num_workers,
                progress=update,
            )
        results.append(result)
        if not result.complete:
            break
    return results


def _loaded(text: str, split: str | None) -> Any:
    import numpy as np

    from hf_sqa.data import load_corpus

    name, _, root = text.partition("=")
    dataset = load_corpus(name, root or None)
    if split is None:
        return dataset
    splits = list(dataset["split"])
    if split not in splits:
        there = ", ".join(sorted({str(name) for name in splits if name})) or "none"
        raise ValueError(f"Expected --split to be one of those of {name!r} ({there}), got {split!r}.")
    return dataset.select(np.flatnonzero([name == split for name in splits]))


def _named(text: str) -> tuple[str, str]:
    predicted, _, label = text.partition("=")
    return predicted, label or predicted


def _print(results: list[Any], metrics: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("test set", "score", "level"):
        table.add_column(name, no_wrap=True)
    for name in (*metrics, "clips", "failed", "drawn"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        blocks: dict[tuple[str, str], dict[str, Any]] = {}
        for row in result.rows:
            blocks.setdefault((row["score"], row["level"]), {})[row["metric"]] = row
        for (score, level), found in blocks.items():
            first = next(iter(found.values()))
            values = [f"{found[name]['value']:.3f} [{found[name]['low']:.3f}, {found[name]['high']:.3f}]" for name in metrics]
            counts = (str(first["num_clips"]), str(first["num_failed"]), f"{first['num_units']} x {first['unit']}")
            table.add_row(result.test_set, score, level, *values, *counts)
    console.print(table)
