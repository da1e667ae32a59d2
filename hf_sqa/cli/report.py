"""`hf-sqa report`: reports on a scored corpus, and whether it got worse."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cells import visible
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, need_extra
from hf_sqa.cli.tables import interval_of, make_console, show_table

NUM_ROWS = 12


@faults_end_it()
def report(
    output: Annotated[Path, typer.Argument(help="Output folder of `hf-sqa score <corpus> --output <folder>/`.")],
    compare: Annotated[
        Path | None, typer.Option(help="Output folder of another run over the same keys, such as last night's.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="Score to report on; the model's first by default.")] = None,
    group_by: Annotated[
        list[str] | None, typer.Option(help="Column to group by; may be repeated; all kept columns by default.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="With `--compare`: a loss up to this many points is accepted.")] = 0.0,
    page: Annotated[Path | None, typer.Option(help="HTML page to write; `report.html` in the folder by default.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this JSON file.")] = None,
) -> None:
    """Report on a scored corpus: distribution, groups, what a threshold keeps, failures, worst and best recordings.

    Prints the main tables and writes an HTML page. During a run, it covers the finished shards.

    With `--compare`, the exit code is 1 if this run is worse: the 95 % interval of the paired difference lies below `-tolerance`,
    overall or in a group (corrected for the number of groups), or recordings lost their score or are missing.
    """
    need_extra("`hf-sqa report`", "corpus", "pyarrow")
    from hf_sqa.scoring.report import compare_runs, make_report
    from hf_sqa.scoring.report_page import write_page
    from hf_sqa.scoring.shards import write_json

    path = page or output / "report.html"
    made, comparison = make_report(output, score=score, group_by=group_by), None
    if compare is not None:
        comparison = compare_runs(output, compare, score=score, group_by=group_by, tolerance=tolerance)
    write_page(made, path, comparison)
    if as_json is not None:
        write_json(as_json, made.as_dict())
    _print(made)
    typer.echo(f"Page: {path}")
    if comparison is None:
        return
    overall = comparison.overall
    interval = interval_of(overall, "+.3f")
    change = f"{overall.before:.3f} to {overall.after:.3f}, difference {overall.mean:+.3f} {interval}".rstrip()
    typer.echo(f"\nAgainst {compare}: {comparison.score} {change} over {overall.num_pairs:,} recordings.")
    for fault in comparison.faults:
        typer.echo(f"Worse: {visible(fault)}.")
    if comparison.faults:
        raise typer.Exit(EXIT_FAILED)
    typer.echo("No loss is shown.")


def _print(made: Any) -> None:
    console = make_console()
    counts = ", ".join(f"{count:,} {status}" for status, count in made.statuses.most_common())
    console.print(f"{made.num_rows:,} rows, {made.hours:,.2f} hours: {counts}.", markup=False)
    if made.missing_shards:
        console.print("The run is not finished: the numbers are those of the shards that are there.")
    if made.num_repeated_keys:
        console.print(f"Rows whose key occurred before: {made.num_repeated_keys:,}; each is scored.")
    spreads = [
        [name, f"{spread.num_scored:,}", _number(spread.mean), interval_of(spread), _number(spread.deviation)]
        + [_number(spread.percentiles[percent]) for percent in (5, 50, 95)]
        for name, spread in made.spreads.items()
    ]
    _show(console, "Scores", ["score", "scored", "mean", "95 %", "deviation", "5 %", "50 %", "95 %"], spreads)
    for column, groups in made.groups.items():
        rows = [
            [group.name, f"{group.num_rows:,}", f"{group.hours:.3f}", _number(group.mean), interval_of(group)]
            + [_number(group.percentiles[percent]) for percent in (5, 50)]
            for group in groups
        ]
        _show(console, f"By {column}", [column, "rows", "hours", f"mean {made.score}", "95 %", "5 %", "50 %"], rows)
        if column in made.verdicts:
            console.print(visible(made.verdicts[column]), markup=False, soft_wrap=True)
    thresholds = [[f"{at:.2f}", f"{kept:,}", f"{hours:.3f}"] for at, kept, hours in made.thresholds]
    _show(console, "What a threshold keeps", [f"{made.score} from", "rows", "hours"], thresholds)
    reasons = [[f"{status}: {code}", f"{count:,}"] for (status, code), (count, _) in made.reasons.items()]
    _show(console, "Without a score", ["reason", "rows"], reasons)


def _show(console: Any, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    shown = f" (first {NUM_ROWS} of {len(rows)})" if len(rows) > NUM_ROWS else ""
    console.print(f"\n{visible(title)}{shown}", markup=False)
    show_table(console, head, rows[:NUM_ROWS])


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
