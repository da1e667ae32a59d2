"""`hf-sqa filter`: selects recordings of a scored corpus."""

from pathlib import Path
from typing import Annotated

import typer

from hf_sqa.cli.stopping import faults_end_it, need_extra


@faults_end_it()
def filter_corpus(
    output: Annotated[Path, typer.Argument(help="Output folder of `hf-sqa score <corpus> --output <folder>/`.")],
    min_mos: Annotated[float | None, typer.Option(help="Lowest `mos` that passes.")] = None,
    minimum: Annotated[
        list[str] | None, typer.Option("--min", help="Lowest of another score, `noisiness=3`; may be repeated.")
    ] = None,
    maximum: Annotated[list[str] | None, typer.Option("--max", help="Highest of a score, `mos=4.5`; may be repeated.")] = None,
    min_seconds: Annotated[float | None, typer.Option(help="Shortest recording that passes.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest recording that passes.")] = None,
    without_warning: Annotated[
        list[str] | None, typer.Option(help="Warning that no recording may have, `clipped`; may be repeated.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the rows that pass: `.jsonl`, `.csv`, `.tsv` or `.parquet`.")] = None,
    annotate: Annotated[Path | None, typer.Option(help="Write every row, with `kept` and `gone_because`.")] = None,
    rows_only: Annotated[bool, typer.Option("--rows-only", help="Write rows of scores, not those of the source.")] = False,
) -> None:
    """Select recordings by their scores, and print what was removed and why. Nothing is deleted.

    For a manifest or table, writes its own rows with the scores added; for other sources, rows of scores. Recordings without a
    score never pass.

    Example: `hf-sqa filter out/ --min-mos 3.5 --without-warning clipped --write kept.jsonl`
    """
    need_extra("`hf-sqa filter`", "corpus", "pyarrow")
    from hf_sqa.scoring.filter import Rule, filter_rows
    from hf_sqa.scoring.shards import read_run
    from hf_sqa.scoring.sources import MANIFEST_SUFFIXES, TABLE_SUFFIXES, open_source

    minima = dict(map(_bound, minimum or ())) | ({} if min_mos is None else {"mos": min_mos})
    rule = Rule(minima, dict(map(_bound, maximum or ())), min_seconds, max_seconds, tuple(without_warning or ()))
    written = [path for path in (write, annotate) if path is not None]
    if rule == Rule() and not written:
        raise ValueError("There is nothing to do: give a threshold, such as --min-mos 3.5, or a file with --write.")
    run = read_run(output)
    has_rows = run["source"].lower().endswith((*MANIFEST_SUFFIXES, *TABLE_SUFFIXES))
    source = open_source(run["source"], **run["reading"]) if written and has_rows and not rows_only else None
    chosen = filter_rows(output, rule, write=write, annotate=annotate, source=source)
    hours, all_hours = chosen.seconds[None] / 3600, sum(chosen.seconds.values()) / 3600
    share = f" ({hours / all_hours:.1%})" if all_hours else ""
    typer.echo(f"Kept:    {chosen.rows[None]:,} of {chosen.rows.total():,} rows, {hours:.2f} of {all_hours:.2f} hours{share}.")
    for reason, count in chosen.rows.most_common():
        if reason is not None:
            typer.echo(f"Dropped: {count:,} rows, {chosen.seconds[reason] / 3600:.2f} hours: {reason}")
    for path in written:
        typer.echo(f"Written: {path}")


def _bound(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not equals or not name or number != number:
        raise ValueError(f"Expected a score and a number, such as noisiness=3, got {text!r}.")
    return name, number
