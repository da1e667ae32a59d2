"""The application of all commands, and its entry point."""

import errno
import os
import sys
import warnings
from typing import Annotated

import typer

from hf_sqa.cli import (
    calibrate,
    card,
    compare,
    convert,
    corpus,
    degrade,
    demo,
    distill,
    download,
    evaluate,
    export,
    filter,
    finetune,
    info,
    listen,
    models,
    prune,
    pseudo_label,
    push,
    report,
    score,
    serve,
    study,
    train,
)

app = typer.Typer(
    name="hf-sqa",
    help="How good does this speech sound? Scores recordings, without a reference, on the five-point scale of listeners.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from hf_sqa import __version__

        typer.echo(f"hf-sqa {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


for command in (
    *(score.score, compare.compare, listen.listen, report.report, filter.filter_corpus, info.info, download.download),
    *(convert.convert, degrade.degrade, pseudo_label.pseudo_label, finetune.finetune, calibrate.calibrate, demo.demo),
    *(serve.serve, evaluate.evaluate, study.study, train.train, push.push, card.card, models.models, distill.distill),
    prune.prune,
):
    app.command(command.__name__.removesuffix("_corpus").replace("_", "-"))(command)
app.add_typer(corpus.app, name="corpus")
app.add_typer(export.app, name="export")


def main() -> None:
    """Entry point of the console script."""
    warnings.formatwarning = lambda message, *_, **__: f"hf-sqa: {message}\n"  # users need no line of code
    try:
        app()
    except ImportError as error:  # a broken package, such as a torchaudio that does not match torch
        sys.stderr.write(f"hf-sqa: {error}\n")
        sys.exit(2)
    except BrokenPipeError:  # `hf-sqa score ... | head`
        _silence_stdout()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"hf-sqa: There is no room for the output ({error}); make room, and run the same command again.\n")
        _silence_stdout()
        sys.exit(2)


def _silence_stdout() -> None:
    """Discard what Python would write to standard output at its end, where the same error would occur again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
