"""`hf-sqa report`: what a scored corpus is like, and whether it got worse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.stopping import stop

EXIT_WORSE = 1
NUM_ROWS = 12


def report(
    output: Annotated[
        Path, typer.Argument(help="Output folder of `hf-sqa score <corpus> --output <folder>/`.", show_default=False)
    ],
    compare: Annotated[
        Path | None, typer.Option(help="Output folder of another run over the same keys, such as last night's.", show_default=False)
    ] = None,
    score: Annotated[str | None, typer.Option(help="Score to report on; the model's first by default.")] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Column to divide by; again for more; all that went along by default.", show_default=False),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="With `--compare`: a loss up to this many points is no fault.")] = 0.0,
    page: Annotated[Path | None, typer.Option(help="HTML page to write; `report.html` in the folder by default.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
) -> None:
    """Report on a scored corpus: distribution, groups, what a threshold keeps, failures, worst and best recordings.

    Prints the main tables and writes an HTML page. Works while a run goes on, on what is finished.

    With `--compare`, exit code 1 if this run is worse: the 95 % interval of the paired difference lies below `-tolerance`, overall
    or in a group (intervals of groups are widened by their number), recordings lost their score, or are gone.
    """
    from hf_sqa.scoring.report import compare_runs, make_report
    from hf_sqa.scoring.report_page import write_page

    path = page or output / "report.html"
    try:
        found = make_report(output, score=score, group_by=group_by)
        comparison = None
        if compare is not None:
            comparison = compare_runs(output, compare, score=score, group_by=group_by, tolerance=tolerance)
        write_page(found, path, comparison)
        if as_json is not None:
            from hf_sqa.scoring.shards import write_json

            write_json(as_json, found.as_dict())
    except (OSError, ValueError, json.JSONDecodeError) as error:
        stop(error)
    _print(found)
    typer.echo(f"Page: {path}")
    if comparison is not None:
        one = comparison.overall
        interval = "" if math.isnan(one.low) else f" [{one.low:+.3f}, {one.high:+.3f}]"
        typer.echo(
            f"\nAgainst {compare}: {comparison.score} {one.before:.3f} to {one.after:.3f}, difference {one.mean:+.3f}{interval} "
            f"over {one.num_pairs:,} recordings."
        )
        for fault in comparison.faults:
            typer.echo(f"Worse: {fault}.")
        if comparison.faults:
            raise typer.Exit(EXIT_WORSE)
        typer.echo("No loss is shown.")


def _print(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    counts = ", ".join(f"{count:,} {status}" for status, count in found.statuses.most_common())
    console.print(f"{found.num_rows:,} rows, {found.hours:,.2f} hours: {counts}.", markup=False)
    if found.missing_shards:
        console.print("Not finished: the numbers are those of what is there.")
    if found.num_repeated_keys:
        console.print(f"Rows whose key occurred before: {found.num_repeated_keys:,}; each is scored.")

    def show(title: str, head: list[str], rows: list[list[str]]) -> None:
        if not rows:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(head):
            table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows[:NUM_ROWS]:
            table.add_row(*row)
        console.print(f"\n{title}" + (f" (first {NUM_ROWS} of {len(rows)})" if len(rows) > NUM_ROWS else ""), markup=False)
        console.print(table)

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}"

    show(
        "Scores",
        ["score", "scored", "mean", "deviation", "5 %", "50 %", "95 %"],
        [
            [
                name,
                f"{one.num_scored:,}",
                number(one.mean),
                number(one.deviation),
                *(number(one.percentiles[at]) for at in (5, 50, 95)),
            ]
            for name, one in found.spreads.items()
        ],
    )
    for column, spreads in found.groups.items():
        rows = [
            [
                one.name,
                f"{one.num_rows:,}",
                f"{one.hours:.3f}",
                number(one.mean),
                number(one.percentiles[5]),
                number(one.percentiles[50]),
            ]
            for one in spreads
        ]
        show(f"By {column}", [column, "rows", "hours", f"mean {found.score}", "5 %", "50 %"], rows)
    show(
        "What a threshold keeps",
        [f"{found.score} from", "rows", "hours"],
        [[f"{at:.2f}", f"{kept:,}", f"{hours:.3f}"] for at, kept, hours in found.thresholds],
    )
    show(
        "Without a score",
        ["reason", "rows"],
        [[f"{status}: {code}", f"{count:,}"] for (status, code), (count, _) in found.reasons.items()],
    )
