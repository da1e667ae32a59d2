"""How a command ends that cannot do what was asked: one line on standard error, and an exit code."""

from __future__ import annotations

from typing import NoReturn

import typer

EXIT_USAGE = 2


def stop(message: object, code: int = EXIT_USAGE) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    typer.echo(f"hf-sqa: {message}", err=True)
    raise typer.Exit(code)
