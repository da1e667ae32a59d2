"""Progress bars of commands: on standard error if that is a terminal, gone when all is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(description: str = "") -> Iterator[Callable[..., None]]:
    """A bar, and the function that moves it: `update(done, total, description)`; the bar appears with the first call."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(description, total=None, visible=False)

        def update(done: int, total: int | None, description: str = description) -> None:
            progress.update(task, completed=done, total=total, description=description, visible=True)

        yield update


def tracked(items: Iterable[Any], title: str, total: int) -> Iterator[Any]:
    """The items, with a bar of that title."""
    with bar(title) as update:
        update(0, total)
        for done, item in enumerate(items, start=1):
            yield item
            update(done, total)
