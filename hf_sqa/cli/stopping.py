"""How a command ends that cannot do what was asked: one line on standard error, and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from hf_sqa.cells import visible
from hf_sqa.extras import needs_extra

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


def stop(message: object, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    say(message)
    raise typer.Exit(code)


def say(message: object) -> None:
    """Write a line to standard error; what is not printable in it is escaped."""
    typer.echo(f"hf-sqa: {visible(str(message))}", err=True)


def need_extra(what: str, extra: str, *packages: str) -> None:
    """Exit if packages of an extra are not installed, before any work is done."""
    from importlib.util import find_spec

    if not all(map(find_spec, packages)):
        stop(needs_extra(what, extra))


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, and is not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def refuse(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Exit if one of these options was typed."""
    for name in names:
        if is_given(context, name):
            option = next(parameter for parameter in context.command.params if parameter.name == name)
            stop(f"{option.opts[0]} {why}.")


@contextmanager
def ends_of_training(after_interrupt: str) -> Iterator[None]:
    """Turn what can end a training into a line and an exit code: 130 after Ctrl-C, 1 if it cannot go on, 2 if it cannot begin."""
    from huggingface_hub.errors import StrictDataclassError

    from hf_sqa.runs import Locked
    from hf_sqa.training.run import Interrupted, TrainingError

    try:
        yield
    except Interrupted as interrupted:
        saved = (
            f"saved in {interrupted.checkpoint}; the same command goes on" if interrupted.checkpoint else "nothing was saved yet"
        )
        stop(f"interrupted: {saved}.", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        stop(f"interrupted; {after_interrupt}.", EXIT_INTERRUPTED)
    except TrainingError as error:
        stop(error, EXIT_FAILED)
    except (ValueError, StrictDataclassError) as error:
        if not is_first_process():  # all processes find the same mistake in a recipe
            raise typer.Exit(EXIT_USAGE) from None
        stop(error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error)
    except (OSError, TypeError, ImportError, Locked) as error:
        stop(error)


def is_first_process() -> bool:
    """Whether this is the first, or the only one, of the processes that train together."""
    return int(os.environ.get("RANK", "0")) == 0


def check_plot(plot: Path) -> None:
    """Stop where a plot cannot be written by its name."""
    if plot.suffix.lower() not in PLOT_SUFFIXES or not plot.parent.is_dir():
        stop(f"Expected --plot to end in {', '.join(PLOT_SUFFIXES)} and to lie in a folder that exists, got {str(plot)!r}.")
