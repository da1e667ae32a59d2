"""How commands write to standard error, and how they end with an error: one line there, and an exit code."""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer

from hf_sqa.cells import visible
from hf_sqa.extras import needs_extra
from hf_sqa.progress import bar

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
#: Errors that the entry point reports: a closed pipe, and a full disk.
TOLD_LATER = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT)
#: How safetensors, which is written in Rust, says that disk, quota or file are full.
FULL_DISK = r"\(os error (28|122|27)\)"
#: Number of lines that [`say_first`] writes.
NUM_SHOWN = 5
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


def stop(message: object, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong and what to do, then exit."""
    say(message)
    raise typer.Exit(code)


def say(message: object) -> None:
    """Write a line to standard error, with characters that are not printable escaped."""
    typer.echo(f"hf-sqa: {visible(str(message))}", err=True)


def say_first(lines: Sequence[str], elsewhere: str = "") -> None:
    """Write the first few lines to standard error, and how many more there are."""
    for line in lines[:NUM_SHOWN]:
        typer.echo(visible(line), err=True)
    if len(lines) > NUM_SHOWN:
        typer.echo(f"... and {len(lines) - NUM_SHOWN} more{elsewhere}", err=True)


def quiet() -> None:
    """Silence the logs and progress bars of transformers and huggingface_hub."""
    import huggingface_hub
    from transformers.utils import logging

    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def faults_end_it(interrupted: str = "Interrupted.", *also: type[Exception]) -> Iterator[None]:
    """Turn errors into one line and exit code 2, and Ctrl-C into one line and 130. It is also a decorator for commands.

    Args:
        interrupted (`str`, *optional*): Message after Ctrl-C.
        *also: Further types of errors that users can fix themselves.
    """
    from hf_sqa.runs import Locked

    try:
        yield
    except KeyboardInterrupt:
        stop(interrupted, EXIT_INTERRUPTED)
    except typer.Exit:  # a `RuntimeError`
        raise
    except Exception as error:
        # Scoring a graph needs no safetensors: its error is known only where it was imported.
        unreadable = getattr(sys.modules.get("safetensors"), "SafetensorError", ())
        known = (OSError, ImportError, TypeError, ValueError, Locked, unreadable, *also)
        if not isinstance(error, known) or (isinstance(error, OSError) and error.errno in TOLD_LATER):
            raise
        if re.search(FULL_DISK, str(error)):
            stop(f"There is no room for the output ({error}); make room, and run the same command again.")
        stop(error)


def need_extra(what: str, extra: str, *packages: str) -> None:
    """Exit if packages of an extra are not installed, before any work is done."""
    from importlib.util import find_spec

    if not all(map(find_spec, packages)):
        stop(needs_extra(what, extra))


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user typed an option, so that its value is not the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def refuse(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Exit if the user typed one of these options."""
    for name in names:
        if is_given(context, name):
            option = next(parameter for parameter in context.command.params if parameter.name == name)
            stop(f"{option.opts[0]} {why}.")


def until_interrupted(rows: Iterable[dict[str, Any]], total: int, what: str) -> list[dict[str, Any]]:
    """Return all rows, or those that are done at Ctrl-C, and show how many there are and how many failed."""
    done: list[dict[str, Any]] = []
    num_failed = 0
    with bar(what) as update, suppress(KeyboardInterrupt):
        update(0, total)
        for row in rows:
            done.append(row)
            num_failed += row.get("status", "ok") != "ok"
            update(len(done), total, f"{what}, {num_failed} failed")
    return done


@contextmanager
def ends_of_training(after_interrupt: str) -> Iterator[None]:
    """[`faults_end_it`] for training, which exits with 1 if it cannot continue, and may be one of several processes."""
    from huggingface_hub.errors import StrictDataclassError

    from hf_sqa.degradations import CodecUnavailableError
    from hf_sqa.training.run import Interrupted, TrainingError

    with faults_end_it(f"interrupted; {after_interrupt}."):
        try:
            yield
        except Interrupted as interrupted:
            saved = f"saved in {interrupted.checkpoint}; the same command goes on"
            stop(f"interrupted: {saved if interrupted.checkpoint else 'nothing was saved yet'}.", EXIT_INTERRUPTED)
        except TrainingError as error:
            stop(error, EXIT_FAILED)
        except (ValueError, StrictDataclassError, CodecUnavailableError) as error:
            if not is_first_process():  # all processes find the same error in a recipe
                raise typer.Exit(EXIT_USAGE) from None
            stop(error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error)


def is_first_process() -> bool:
    """Whether this is the first, or only, process of a training."""
    return int(os.environ.get("RANK", "0")) == 0


def check_plot(plot: Path) -> None:
    """Stop if the name of a plot has a wrong suffix or a missing folder."""
    if plot.suffix.lower() not in PLOT_SUFFIXES or not plot.parent.is_dir():
        stop(f"Expected --plot to end in {', '.join(PLOT_SUFFIXES)} and to lie in a folder that exists, got {str(plot)!r}.")
