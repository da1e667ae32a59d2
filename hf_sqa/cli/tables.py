"""Writes rows of scores to a terminal and to files."""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from hf_sqa.cells import clock, visible
from hf_sqa.cli.stopping import say_first
from hf_sqa.row_tables import RowWriter

SUFFIXES = (".csv", ".jsonl", ".parquet")
SORTS = ("worst", "best", "name", "input")
#: Number of recordings named at the end of a table.
NUM_WORST = 3
#: Largest number of faults named in a remark, and of timeline rows below a recording.
MOST_FAULTS, MOST_LINES = 3, 60
#: Colour of a cell or a bar from this score upwards, on the five-point scale.
COLOURS = ((4.0, "green"), (3.0, "yellow"), (2.0, "dark_orange"), (-math.inf, "red"))


def row_writer(path: Path, standard_output: IO[str]) -> RowWriter:
    """Return a writer of rows to `.csv`, `.jsonl` or `.parquet`; for `-`, JSON lines to standard output."""
    if str(path) == "-":
        return RowWriter(path, ".jsonl", standard_output)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected --output to end in {', '.join(SUFFIXES)}, or to be '-', got {str(path)!r}.")
    return RowWriter(path)


def sort_rows(rows: Sequence[dict[str, Any]], score: str, sort: str) -> list[dict[str, Any]]:
    """Sort rows by a score, `"worst"` or `"best"` first with unscored rows last, by `"name"`, or not at all (`"input"`)."""
    if sort == "input":
        return list(rows)
    if sort == "name":
        return sorted(rows, key=lambda row: row["file"])
    sign = 1 if sort == "worst" else -1
    return sorted(rows, key=lambda row: (row[score] is None, sign * (row[score] or 0)))


def print_table(rows: Sequence[dict[str, Any]], score_names: Sequence[str], console: Any) -> None:
    """Print one line per recording: scores coloured by the five-point scale, duration, rate, and findings."""
    from rich.text import Text

    worst = ["worst"] if any("worst" in row for row in rows) else []
    cells: list[list[Any]] = []
    for row in rows:
        scored = row["status"] == "ok"
        remarks = ", ".join([*row["warnings"], *_faults(row, score_names[0])]) if scored else f"{row['code']}: {row['reason']}"
        scores = [coloured(row[name]) if scored else Text(row["status"], "red") for name in score_names]
        seconds = f"{row['duration_seconds']:.1f}" if row["duration_seconds"] is not None else ""
        told = Text(visible(remarks), style="yellow" if scored else "red")
        worst_cell = Text("")
        if row.get("worst") is not None:
            worst_cell = coloured(row["worst"]).append(f" at {clock(row['worst_start'])}", "dim")
        cells.append([row["file"], *scores, *(worst_cell for _ in worst), seconds, str(row["sampling_rate"] or ""), told])
        for segment in [*(row.get("segments") or []), *_course(row.get("timeline") or [], score_names)]:
            span = Text(f"  {segment['start']:.2f} to {segment['end']:.2f} s", "dim")
            cells.append([span, *(coloured(segment[name]) if name in segment else "" for name in score_names)])
    show_table(console, ["file", *score_names, *worst, "seconds", "Hz", "remarks"], cells, left=("file", "remarks"))


def coloured(value: float) -> Any:
    """Return a score as text in its colour on the five-point scale."""
    from rich.text import Text

    return Text(f"{value:.2f}", next(name for lowest, name in COLOURS if value >= lowest))


def mean_and_worst(rows: Sequence[dict[str, Any]], score: str) -> str:
    """Summarise recordings in one line: their mean with its interval, how many have no score, and which are the worst."""
    from hf_sqa.metrics import compare_systems
    from hf_sqa.metrics.bootstrap import MIN_UNITS

    scored = [row for row in rows if row["status"] == "ok"]
    without = f", {len(rows) - len(scored)} without a score" if len(scored) < len(rows) else ""
    if not scored:
        return f"No mean {score}: no recording has a score, of {len(rows):,}."
    mean = compare_systems([row[score] for row in scored], ["all"] * len(scored)).systems[0].mean
    interval = f"too few for an interval, which takes {MIN_UNITS}"
    if not math.isnan(mean.low):
        interval = f"{100 * mean.confidence_level:g} % interval {mean.low:.2f} to {mean.high:.2f}"
    worst = ", ".join(f"{visible(row['file'])} ({row[score]:.2f})" for row in sort_rows(scored, score, "worst")[:NUM_WORST])
    number = "1 recording" if len(scored) == 1 else f"{len(scored):,} recordings"
    return f"Mean {score} {mean.value:.2f} over {number} ({interval}){without}. Worst: {worst}."


def _faults(row: dict[str, Any], score: str) -> list[str]:
    """Describe the most severe faults of a recording in words, in order of time."""
    faults = row.get("faults") or []
    named = sorted(sorted(faults, key=lambda fault: fault[score])[:MOST_FAULTS], key=lambda fault: fault["start"])
    words = [f"fault ({fault['kind']}) from {clock(fault['start'])} to {clock(fault['end'])}" for fault in named]
    return words + ([f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else [])


def _course(timeline: Sequence[dict[str, Any]], score_names: Sequence[str]) -> list[dict[str, Any]]:
    """Average a timeline into at most `MOST_LINES` stretches; a short one keeps every point."""
    size = max(1, math.ceil(len(timeline) / MOST_LINES))
    pieces = [timeline[first : first + size] for first in range(0, len(timeline), size)]
    return [
        {"start": piece[0]["start"], "end": piece[-1]["end"]}
        | {name: sum(point[name] for point in piece) / len(piece) for name in score_names if name in piece[0]}
        for piece in pieces
    ]


def interval_of(estimate: Any, form: str = ".2f") -> str:
    """Format the ends of an estimate's interval in brackets; empty if it has none."""
    return "" if math.isnan(estimate.low) else f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def make_console() -> Any:
    """Make a console that wraps lines only on a terminal, because a pipe or a file has no width."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 250
    return console


def show_table(console: Any, head: Sequence[str], rows: Iterable[Sequence[Any]], left: Collection[str] = ()) -> None:
    """Print rows below a header; the columns in `left`, or the first, are left-aligned and may wrap, the others right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        is_left = name in (left or head[:1])
        table.add_column(Text(visible(name)), justify="left" if is_left else "right", overflow="fold", no_wrap=not is_left)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    console.print(table)


def print_training(result: Any, judges: str, unit: str) -> None:
    """Print a [`~hf_sqa.training.TrainingResult`]: metrics against `judges`, counts in `unit`, and what was left out."""
    console = make_console()
    metrics = {name.removeprefix("eval_"): value for name, value in result.metrics.items()}
    chosen = [name for name in metrics if name.rsplit("_", 1)[-1] in ("srcc", "lcc", "rmse", "loss")]
    if chosen:
        show_table(console, [judges, ""], [[name, f"{metrics[name]:.4f}"] for name in chosen])
    step = f"best step {result.best_step} of {result.num_steps}" if result.best_step is not None else f"{result.num_steps} steps"
    console.print(f"{result.num_train:,} {unit} trained on, {result.num_validation:,} validated; {step}; {result.seconds:,.0f} s")
    if result.excluded:
        console.print("Left out: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(result.excluded.items())))
    say_first([message if source in message else f"{source}: {message}" for source, message in result.failures.items()])
    console.print(f"The model is in {result.output_dir}: hf-sqa score --model {result.output_dir} ...", soft_wrap=True)


def print_agreement(rows: Sequence[dict[str, Any]]) -> None:
    """Print agreement with listeners: one row for each test set, score and level, with the metrics and their intervals.

    Args:
        rows (sequence of `dict`): Rows of [`~hf_sqa.evaluation.suite.SuiteResult`].
    """
    lines: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["test_set"], row["score"], row["level"]), {})[row["metric"]] = row
    cells = []
    for names, by_metric in lines.items():
        values = [f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in by_metric.values()]
        first = next(iter(by_metric.values()))
        counts = (str(first["num_clips"]), str(first["num_failed"]), f"{first['num_units']} x {first['unit']}")
        cells.append([*names, *values, *counts])
    identity, metrics = ["test set", "score", "level"], dict.fromkeys(row["metric"] for row in rows)
    show_table(make_console(), [*identity, *metrics, "clips", "failed", "drawn"], cells, left=identity)
