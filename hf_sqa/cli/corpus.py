"""`hf-sqa corpus`: the rated corpora that can be loaded, and whether a download is complete."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_sqa.cli import corpus_build
from hf_sqa.cli.arguments import Column, Scale, named_columns
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it
from hf_sqa.cli.tables import make_console, show_table
from hf_sqa.progress import bar

app = typer.Typer(help="Rated corpora: which there are, and whether a download is whole.", no_args_is_help=True)

app.command("build")(corpus_build.build)


@app.command("list")
def list_corpora() -> None:
    """Show the corpora that can be loaded by name: language, size, licence, where to get them."""
    from hf_sqa.data.corpora import CORPORA

    rows = []
    for corpus in CORPORA.values():
        rows.append([corpus.name, corpus.language, f"{corpus.num_clips:,}", corpus.size, corpus.licence, corpus.source])
        for part in corpus.clips if len(corpus.clips) > 1 else ():
            clips = sum(corpus.clips[part].values())
            rows.append([f"  {corpus.label(part)}", "", f"{clips:,}" if clips else "", "", "", ""])
    console = make_console()
    show_table(console, ["name", "language", "clips", "size", "licence", "where to get it"], rows, num_left=6)
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
    """Check a download: what is there, counts, missing files, rates, scores outside their scale, duplicates.

    Reads labels and audio headers. Exit code 1: there are faults, each kind with its first few files. Exit code 2: nothing could be
    checked.
    """
    from hf_sqa.data.corpora import check_corpus

    with bar() as update:
        report = check_corpus(name, root, scale=scale, columns=named_columns(column), progress=update)
    typer.echo(str(report))
    if report.faults:
        raise typer.Exit(EXIT_FAILED)
