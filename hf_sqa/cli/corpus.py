"""`hf-sqa corpus`: lists the rated corpora that can be loaded, checks a download, and builds the bench corpus."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import AllCores, Column, Scale, named_columns, num_cores, words_of
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, need_extra, say_first, stop, until_interrupted
from hf_sqa.cli.tables import make_console, show_table
from hf_sqa.progress import bar

app = typer.Typer(help="Rated corpora: list them, check a download, build one.", no_args_is_help=True)


@app.command("list")
def list_corpora() -> None:
    """List the corpora that can be loaded by name: language, size, licence, where to get them."""
    from hf_sqa.data.corpora import CORPORA

    rows = []
    for corpus in CORPORA.values():
        rows.append([corpus.name, corpus.language, f"{corpus.num_clips:,}", corpus.size, corpus.licence, corpus.source])
        for part in corpus.clips if len(corpus.clips) > 1 else ():
            clips = sum(corpus.clips[part].values())
            rows.append([f"  {corpus.label(part)}", "", f"{clips:,}" if clips else "", "", "", ""])
    console, head = make_console(), ["name", "language", "clips", "size", "licence", "where to get it"]
    show_table(console, head, rows, left=head)
    console.print("Others: `hub:<repository>`, or a table (.csv .tsv .txt .jsonl .xlsx) with columns of recordings and scores.")


@app.command("check")
@faults_end_it()
def check(
    name: Annotated[
        str, typer.Argument(help="A corpus of `hf-sqa corpus list`, one part of it (`nisqa/TEST_FOR`), or a table of your own.")
    ],
    root: Annotated[str | None, typer.Argument(help="Its folder as unpacked; of a table, the folder its paths begin in.")] = None,
    scale: Scale = None,
    column: Column = None,
) -> None:
    """Check a download: contents, counts, missing files, sampling rates, scores outside their scale, duplicates.

    Reads labels and audio headers. Exit code 1: faults were found; the first few files of each kind are listed. Exit code 2:
    nothing could be checked.
    """
    from hf_sqa.data.corpora import check_corpus

    with bar() as update:
        report = check_corpus(name, root, scale=scale, columns=named_columns(column), progress=update)
    typer.echo(str(report))
    if report.faults:
        raise typer.Exit(EXIT_FAILED)


@app.command("build")
@faults_end_it("Interrupted: what is done is kept; the same command goes on from there.", RuntimeError)
def build(
    corpus: Annotated[str, typer.Argument(help="What to build: `bench`.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it.")],
    form: Annotated[
        str, typer.Option(help="`ci`: 625 clips, five languages. `training`: 69,846 clips, seven voices, six languages.")
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
    num_workers: AllCores = None,
) -> None:
    """Build the bench corpus: recorded speech, simulated conditions, human scores of the conditions.

    Writes the clips, `bench.csv` with a row for each, `conditions.csv`, and `ladders.csv` (conditions in order, from the
    original to the worst). The same command resumes a stopped run; Ctrl-C keeps finished clips. Exit code 1: some clips could not
    be made or measured. Exit code 2: nothing could be done, for example because of missing packages, which are then named.

    Examples:

    - `hf-sqa corpus build bench bench/ --fetch`
    - `hf-sqa corpus build bench bench/ --packages unpacked/`
    - `hf-sqa corpus build bench bench-training/ --form training --packages unpacked/ --labels pesq,stoi`
    """
    import time

    from hf_sqa.data.bench import FORM_VOICES, build_clips, label_clips, plan_bench
    from hf_sqa.data.bench.build import LABELS
    from hf_sqa.data.bench.packages import fetch_packages

    if corpus != "bench":
        stop(f"Expected `bench`, the corpus that can be built, got {corpus!r}.")
    wanted = words_of(labels)
    workers = num_workers or num_cores()
    began = time.perf_counter()
    for label in wanted:  # checked before the clips are made, not after
        if label not in LABELS:
            raise ValueError(f"Expected --labels out of {', '.join(LABELS)}, got {label!r}.")
    for label, package in (("pesq", "pesq"), ("stoi", "pystoi")):
        if label in wanted:
            need_extra(f"The label {label!r}", "labels", package)
    if fetch:
        if form not in FORM_VOICES:
            raise ValueError(f"Expected --form to be one of {', '.join(FORM_VOICES)}, got {form!r}.")
        with bar(unit="packages") as update:
            packages = fetch_packages(form, packages or folder / "packages", update)
    plan = plan_bench(folder, form=form, packages=packages, num_phrases=num_phrases, suffix=f".{suffix.lstrip('.')}")
    rows = until_interrupted(build_clips(plan, num_workers=workers), len(plan.clips), "clips")
    failed = [f"{row['audio']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    num_made, interrupted = len(rows) - len(failed), len(rows) < len(plan.clips)
    measured: list[dict[str, Any]] = []
    if wanted and not interrupted:
        measured = until_interrupted(label_clips(plan, wanted, num_workers=workers), num_made, "labels")
        interrupted = len(measured) < num_made
        failed += [
            f"{row['audio']}: {label}: {why}" for row in measured for label, why in row["reasons"].items() if label in wanted
        ]
    say_first(failed, ", in the manifests.")
    labelled = f", {len(measured)} with {', '.join(wanted)}" if measured else ""
    typer.echo(f"{num_made} of {len(plan.clips)} clips in {folder}{labelled} ({time.perf_counter() - began:.0f} s).")
    if interrupted:
        raise KeyboardInterrupt
    if failed:
        raise typer.Exit(EXIT_FAILED)
