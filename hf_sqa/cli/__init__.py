"""The command `hf-sqa`. A module per command: it parses, calls one function, prints. Heavy imports wait inside the commands."""

from __future__ import annotations

import sys

import typer

from hf_sqa.cli import convert, corpus, degrade, export, info, score

app = typer.Typer(
    name="hf-sqa",
    help="How good does this speech sound? Scores recordings, without a reference, on the five-point scale of listeners.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("score")(score.score)
app.command("info")(info.info)
app.command("convert")(convert.convert)
app.command("degrade")(degrade.degrade)
app.add_typer(corpus.app, name="corpus")
app.add_typer(export.app, name="export")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BrokenPipeError:  # `hf-sqa score ... | head`
        sys.stderr.close()
        sys.exit(1)
