"""`hf-sqa score <corpus> --output <folder>`: a bar on a terminal, one line per minute in a log, one sentence at the end."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.cli.arguments import parse_part
from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, need_extra, quiet, say, stop
from hf_sqa.progress import bar, clock
from hf_sqa.scoring import Progress, Settings, open_source, run
from hf_sqa.scoring.sinks import FORMATS, export

ENGINES = ("local", "ray")


def score_corpus(
    corpus: str,
    output: Path,
    settings: Settings,
    *,
    reading: dict[str, Any],
    formats: list[str],
    shards: str,
    engine: str,
    actors: int,
    gpus: float,
    **more: Any,
) -> int:
    """Score a corpus into a folder, and return the exit code; `**more` are options of [`hf_sqa.scoring.run.score_corpus`].

    0: every row has a score or a reason. 1: rows are left. 2: the run could not begin or continue. 130: interrupted by Ctrl-C, or
    by SIGTERM, which Slurm sends; finished rows are kept.
    """
    need_extra("Scoring a corpus into a folder", "corpus", "pyarrow")
    for option, values, known in (("--format", formats, FORMATS), ("--engine", [engine], ENGINES)):
        if unknown := [value for value in values if value not in known]:
            stop(f"Expected {option} to be one of {', '.join(known)}, got {unknown[0]!r}.")
    for name, seconds in (("--max-seconds", settings.max_seconds), ("--timeout", settings.timeout_seconds)):
        if seconds is not None and not seconds > 0:
            stop(f"Expected {name} above 0, got {seconds:g}.")
    # Under torchrun or accelerate every process is a rank; a cluster that only sets `WORLD_SIZE` does not count.
    launched = os.environ if "LOCAL_RANK" in os.environ else {}
    rank, num_ranks = int(launched.get("RANK", 0)), int(launched.get("WORLD_SIZE", 1))
    tell = say if num_ranks == 1 else lambda text: say(f"rank {rank} of {num_ranks}: {text}")
    with _ending_by_sigterm():
        try:
            part = parse_part(shards)
            source = open_source(corpus, **reading)
            quiet()
            if engine == "ray":
                progress = run.score_corpus(source, output, settings, num_actors=actors, num_gpus=gpus, **more)
            else:
                if num_ranks > 1:
                    import torch

                    # Each rank takes every num_ranks-th shard of this part: rank r of part i of n starts at shard i + n * r.
                    part = (part[0] + part[1] * rank, part[1] * num_ranks)
                    gpus_here = torch.cuda.device_count()
                    own = f"cuda:{int(os.environ['LOCAL_RANK']) % gpus_here}" if gpus_here else "cpu"
                    settings = replace(settings, device=settings.device or own)
                with bar("reading the list", unit="rows", tell=tell) as update:
                    update(0, None)
                    show = functools.partial(_show, update)
                    progress = run.score_corpus(source, output, settings, on_progress=show, part=part, **more)
            for kind in formats if progress.complete else ():
                tell(f"Written: {export(output, kind, source)}")
        except KeyboardInterrupt:
            tell("Interrupted: the shards that are finished are kept; the same command goes on from there.")
            return EXIT_INTERRUPTED
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            tell(str(error))
            return EXIT_USAGE
    tell(summary(progress, output))
    if progress.complete or part != (0, 1):
        return 0
    tell("Some shards are not there; the same command makes them.")
    return EXIT_FAILED


def summary(progress: Progress, output: Path) -> str:
    """Describe in one sentence what a run did."""
    earlier = f"{progress.kept:,} rows were there already" if progress.kept else ""
    if not progress.rows:
        return f"Nothing to do: {earlier or 'the source is empty'}."
    counts = ", ".join(f"{number:,} {status}" for status, number in progress.statuses.most_common())
    hours = f", {progress.audio_seconds / 3600:.2f} hours of audio, in {clock(progress.seconds)} " if progress.seconds else ""
    rate = f"({progress.hours_per_hour:.1f} audio-hours per hour)" if progress.seconds else f" in {progress.shards:,} shards"
    text = f"Scored {progress.rows:,} rows{hours}{rate}" + (f": {counts}." if counts else ".")
    return f"{text}{f' {earlier}.' if earlier else ''} `hf-sqa report {output}` tells more."


def _show(update: Callable[..., None], progress: Progress) -> None:
    failed = sum(progress.statuses.values()) - progress.statuses["ok"]
    text = f"{progress.hours_per_hour:.1f} audio-hours per hour, {failed:,} without a score"
    update(progress.rows + progress.kept, progress.total, text)


@contextlib.contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """Make SIGTERM end a run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
