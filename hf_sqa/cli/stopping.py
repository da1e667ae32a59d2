"""How a command ends that cannot do what was asked: one line on standard error, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import typer

from hf_sqa.cells import visible

EXIT_USAGE = 2


def stop(message: object, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    say(message)
    raise typer.Exit(code)


def say(message: object) -> None:
    """Write a line to standard error; what is not printable in it is escaped."""
    typer.echo(f"hf-sqa: {visible(str(message))}", err=True)


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
