"""Shows progress on standard error: a bar on a terminal, removed at the end; elsewhere one line per minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: Time between two lines of a log.
LOG_SECONDS = 60.0
#: Time between two updates of a bar.
DRAWN_SECONDS = 0.1


@contextmanager
def bar(
    description: str = "", *, unit: str = "", tell: Callable[[str], object] | None = None, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Yield a function that reports progress: `update(done, total, description)`. Nothing is shown before its first call.

    `unit` names the counted things in the plural: `"clips"`. Where there is no terminal, `tell` is called with each line, which by
    default goes to standard error. Of several processes, only one should be `shown`.
    """
    if not shown:
        yield lambda *told: None
        return
    try:  # the code of a repository also runs where rich is not installed
        import rich.console
        import rich.progress as parts
    except ImportError:
        parts = None  # type: ignore[assignment]
    if parts is None or not sys.stderr.isatty():
        yield _Log(description, unit, tell or (lambda line: sys.stderr.write(f"hf-sqa: {line}\n")))
        return
    described = (parts.TextColumn(unit), parts.TextColumn("{task.description}"), parts.TimeRemainingColumn())
    columns = (parts.BarColumn(), parts.MofNCompleteColumn(), *described)
    # Drawn in `update`, not by a thread, which would prevent this process from being forked for every core.
    with parts.Progress(*columns, console=rich.console.Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task, drawn = progress.add_task(description, total=None, visible=False), float("-inf")

        def update(done: int, total: int | None, description: str = description) -> None:
            nonlocal drawn
            is_due = time.monotonic() - drawn > DRAWN_SECONDS or done == total
            drawn = time.monotonic() if is_due else drawn
            progress.update(task, completed=done, total=total, description=description, visible=True, refresh=is_due)

        yield update


def tracked(items: Iterable[Any], title: str, total: int) -> Iterator[Any]:
    """Yield the items, with a progress bar."""
    with bar(title) as update:
        update(0, total)
        for done, item in enumerate(items, start=1):
            yield item
            update(done, total)


def clock(seconds: float) -> str:
    """Format a waiting time in short: `"40 s"`, `"12 min"`, `"3 h 05 min"`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min" if whole >= 3600 else f"{whole // 60} min"


class _Log:
    """Lines with count, rate and time left. Work before the first call does not count for the rate."""

    def __init__(self, description: str, unit: str, tell: Callable[[str], object]):
        self._description, self._unit, self._tell = description, unit, tell
        self._began: float | None = None
        self._last, self._first = 0.0, 0

    def __call__(self, done: int, total: int | None, description: str | None = None) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._last, self._first = now, now, done
        if now - self._last < LOG_SECONDS:
            return
        self._last = now
        per_second = (done - self._first) / (now - self._began)
        parts = [f"{done:,}" + (f" of {total:,}" if total else "") + (f" {self._unit}" if self._unit else "")]
        if per_second > 0:
            parts.append(f"{per_second:.1f} a second" if per_second >= 1 else f"{60 * per_second:.1f} a minute")
            if total:
                parts.append(f"{clock((total - done) / per_second)} left")
        text = self._description if description is None else description
        self._tell(", ".join(parts) + (f"; {text}" if text else ""))
