"""A run as a person sees it: a bar on a terminal, a line a minute in a log, one sentence at the end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.scoring.run import score_corpus
from hf_sqa.scoring.run_part import Progress
from hf_sqa.scoring.scorer import Settings
from hf_sqa.scoring.sinks import export
from hf_sqa.scoring.sources import Source

LOG_SECONDS = 60.0
#: Of a bar on a terminal.
REFRESH_SECONDS = 0.2
EXIT_INCOMPLETE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def run_and_tell(
    source: Source, output: Path, settings: Settings, *, formats: Sequence[str] = (), say: Callable[[str], None], **options: Any
) -> int:
    """Score a corpus, telling how far it is on standard error, and return an exit code.

    0: every row was scored or has its reason. 1: rows are left. 2: it could not begin or go on. 130: interrupted by Ctrl-C, or told
    to end by SIGTERM, as Slurm does; what is finished is kept.
    """
    part = options.get("part", (0, 1))
    with _ending_by_sigterm():
        try:
            with _Teller(say) as teller:
                progress = score_corpus(source, output, settings, on_progress=teller.tell, **options)
        except KeyboardInterrupt:
            say("Interrupted: the shards that are finished are kept; the same command goes on from there.")
            return EXIT_INTERRUPTED
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            say(str(error))
            return EXIT_USAGE
        try:
            for kind in formats if progress.complete else ():
                say(f"Written: {export(output, kind, source)}")
        except (OSError, ValueError) as error:
            say(str(error))
            return EXIT_USAGE
    say(summary(progress, output))
    return 0 if progress.complete or part != (0, 1) else EXIT_INCOMPLETE


def summary(progress: Progress, output: Path) -> str:
    """One sentence on what a run did."""
    counts = ", ".join(f"{number:,} {status}" for status, number in sorted(progress.statuses.items(), key=lambda pair: -pair[1]))
    earlier = f"{progress.kept:,} rows were there already" if progress.kept else ""
    if not progress.rows:
        return f"Nothing to do: {earlier or 'the source is empty'}."
    text = (
        f"Scored {progress.rows:,} rows, {progress.audio_seconds / 3600:.2f} hours of audio, in {_clock(progress.seconds)} "
        f"({progress.hours_per_hour:.1f} audio-hours per hour): {counts}."
    )
    return f"{text}{f' {earlier[:1].upper()}{earlier[1:]}.' if earlier else ''} `hf-sqa report {output}` tells more."


class _Teller:
    """Shows progress, a few times a second at most."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> _Teller:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True, highlight=False), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("reading the list", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (REFRESH_SECONDS if self._bar is not None else LOG_SECONDS):
            return
        self._last = now
        failed = sum(progress.statuses.values()) - progress.statuses["ok"]
        text = f"{progress.hours_per_hour:.1f} audio-hours per hour, {failed:,} without a score"
        if self._bar is not None:
            done = progress.rows + progress.kept
            self._bar.update(self._task, completed=done, total=progress.total, description=text)
            return
        left = ""
        if progress.total and progress.rows:
            remaining = (progress.total - progress.rows - progress.kept) * progress.seconds / progress.rows
            left = f" of {progress.total:,}, {_clock(remaining)} left"
        self._say(f"{progress.rows + progress.kept:,} rows{left}; {text}")


class _ending_by_sigterm:  # noqa: N801  # reads like the statement it is used in
    """Context in which SIGTERM ends a run as Ctrl-C does."""

    def __enter__(self) -> None:
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    @staticmethod
    def _interrupt(*_: object) -> None:
        raise KeyboardInterrupt


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min" if whole >= 3600 else f"{whole // 60} min"
