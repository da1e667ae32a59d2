"""`hf-sqa corpus build bench`: a corpus made on this machine from freely available recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import num_cores
from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, need_extra, stop
from hf_sqa.progress import bar, tracked

#: Failures listed individually; the manifest has all.
FAILURES_TOLD = 5


def build(
    corpus: Annotated[str, typer.Argument(help="What to build: `bench`.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it.")],
    form: Annotated[
        str,
        typer.Option(help="`ci`: 625 clips, five languages. `training`: 69,846 clips, seven voices, six languages."),
    ] = "ci",
    packages: Annotated[
        Path | None, typer.Option(help="Folder into which the Debian packages were unpacked; those installed by default.")
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="Download the packages that are missing, check and unpack them, into `--packages`, or `<folder>/packages`.",
        ),
    ] = False,
    num_phrases: Annotated[
        int | None, typer.Option(min=1, help="Phrases of each voice; 5 in the form `ci` and all in `training` by default.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels to measure against the originals: `pesq`, `stoi`, `sdi`, with commas between.")
    ] = None,
    suffix: Annotated[str, typer.Option("--format", help="`flac` or `wav`, both of 16 bits.")] = "flac",
    num_workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default. Never changes a result.")] = None,
) -> None:
    """Build the bench corpus: recorded speech, simulated conditions, human scores of the conditions.

    The folder gets the clips, `bench.csv` with a row for each, `conditions.csv` and `ladders.csv` (conditions in order,
    from the original to the worst). The same command resumes a stopped run; Ctrl-C keeps what is done. Exit code 1: some clips
    could not be made or measured. Exit code 2: nothing could be done, for example because packages are missing, which are then
    named.

    Examples:

    - `hf-sqa corpus build bench bench/ --fetch`
    - `hf-sqa corpus build bench bench/ --packages unpacked/`
    - `hf-sqa corpus build bench bench-training/ --form training --packages unpacked/ --labels pesq,stoi`
    """
    import time

    from hf_sqa.data.bench import build_clips, label_clips, plan_bench

    if corpus != "bench":
        stop(f"Expected `bench`, the corpus that can be built, got {corpus!r}.")
    wanted = [label.strip() for label in labels.split(",") if label.strip()] if labels is not None else []
    workers = num_workers or num_cores()
    began = time.perf_counter()
    try:
        _check_labels(wanted)
        if fetch:
            packages = _fetched(form, packages or folder / "packages")
        plan = plan_bench(folder, form=form, packages=packages, num_phrases=num_phrases, suffix=f".{suffix.lstrip('.')}")
        rows = _done(build_clips(plan, num_workers=workers), len(plan.clips), "clips")
        failed = [f"{row['audio']}: {row['reason']}" for row in rows if row["status"] != "ok"]
        interrupted = len(rows) < len(plan.clips)
        measured: list[dict[str, Any]] = []
        if wanted and not interrupted:
            measured = _done(label_clips(plan, wanted, num_workers=workers), len(rows) - len(failed), "labels")
            failed += [
                f"{row['audio']}: {label}: {why}" for row in measured for label, why in row["reasons"].items() if label in wanted
            ]
            interrupted = len(measured) < len([row for row in rows if row["status"] == "ok"])
    except (OSError, ImportError, TypeError, ValueError, RuntimeError) as error:
        stop(str(error))
    for line in failed[:FAILURES_TOLD]:
        typer.echo(line, err=True)
    if len(failed) > FAILURES_TOLD:
        typer.echo(f"... and {len(failed) - FAILURES_TOLD} more, in the manifests.", err=True)
    made = sum(row["status"] == "ok" for row in rows)
    labelled = f", {len(measured)} with {', '.join(wanted)}" if measured else ""
    typer.echo(f"{made} of {len(plan.clips)} clips in {folder}{labelled} ({time.perf_counter() - began:.0f} s).")
    if interrupted:
        stop("Interrupted: what is done is kept; the same command goes on from there.", EXIT_INTERRUPTED)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _fetched(form: str, folder: Path) -> Path:
    from hf_sqa.data.bench import FORM_VOICES
    from hf_sqa.data.bench.packages import fetch_packages

    if form not in FORM_VOICES:
        raise ValueError(f"Expected --form to be one of {', '.join(FORM_VOICES)}, got {form!r}.")
    with bar(unit="packages") as update:
        return fetch_packages(form, folder, update)


def _check_labels(labels: list[str]) -> None:
    """Before the clips are made, not after."""
    from hf_sqa.data.bench.build import LABELS

    for label in labels:
        if label not in LABELS:
            raise ValueError(f"Expected --labels out of {', '.join(LABELS)}, got {label!r}.")
    for label, package in (("pesq", "pesq"), ("stoi", "pystoi")):
        if label in labels:
            need_extra(f"The label {label!r}", "labels", package)


def _done(rows: Iterator[dict[str, Any]], total: int, what: str) -> list[dict[str, Any]]:
    """All rows, or those done before Ctrl-C."""
    done: list[dict[str, Any]] = []
    try:
        for row in tracked(rows, what, total):
            done.append(row)
    except KeyboardInterrupt:
        pass
    return done
