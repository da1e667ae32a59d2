"""`hf-sqa score <files>`: from names to rows, a table and a plot."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sqa.blocks.score_intervals import score_columns
from hf_sqa.cells import file_row
from hf_sqa.cli.files import find_recordings
from hf_sqa.cli.quiet import quiet
from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, check_plot, say, stop
from hf_sqa.cli.tables import SORTS, make_console, mean_and_worst, print_table, row_writer, sort_rows
from hf_sqa.progress import bar

if TYPE_CHECKING:
    from hf_sqa.scoring.scorer import Settings


def score_files(
    names: Sequence[str],
    settings: Settings,
    output: str | None,
    *,
    sort: str,
    batch_size: int,
    with_segments: bool,
    plot: Path | None,
    backend: str = "torch",
) -> None:
    """Score, print and write; see `hf-sqa score --help`."""
    if sort not in SORTS:
        stop(f"Expected --sort to be one of {', '.join(SORTS)}, got {sort!r}.")
    try:
        recordings = list(find_recordings(names))
    except (OSError, ValueError) as error:
        stop(error)
    if not recordings:
        stop("There is nothing to score: the list is empty.")
    if plot is not None:
        if len(recordings) != 1:
            stop(f"--plot draws one recording, got {len(recordings)}; name one file.")
        check_plot(plot)
    scorer, score_names = _load(settings) if backend == "torch" else _load_graph(settings)
    try:
        writer = row_writer(Path(output), sys.stdout) if output is not None else None
    except (OSError, ValueError) as error:
        stop(error)
    rows: list[dict[str, Any]] = []
    timeline: dict[str, Any] = {}
    interrupted, unwritten = False, None
    # Where a head gives it for little, nobody is told a mean alone.
    with_timeline = settings.timeline or plot is not None or scorer.local_is_cheap
    asked = {"return_segments": with_segments, "return_timeline": with_timeline}
    results = _scored(scorer, recordings, score_names, settings, batch_size, asked, backend)
    try:
        for row in results:
            timeline = {name: row.get(name) for name in ("timeline", "faults")}
            if not settings.timeline:  # a worst stretch is always there; a fault can be a false one, so it is asked for
                for name in ("timeline", "faults"):
                    row.pop(name, None)
            rows.append(row)
            if writer:
                writer.write(row)
        if writer:
            writer.close()
    except KeyboardInterrupt:
        interrupted = True
        if writer:
            writer.close()
    except OSError as error:
        unwritten = error
    finally:
        results.close()
    if output != "-":
        console = make_console()
        print_table(sort_rows(rows, score_names[0], sort), score_names, console)
        if len(rows) > 1:
            console.print(f"\n{mean_and_worst(rows, score_names[0])}", markup=False, soft_wrap=True)
    if plot is not None and rows and rows[0]["status"] == "ok":
        _draw(plot, recordings[0][1], scorer, settings, rows[0], timeline, score_names[0])
    if unwritten is not None:
        stop(f"{output!r} cannot be written to its end ({unwritten.strerror or unwritten}); {len(rows)} recordings were scored.")
    if interrupted:
        stop(f"Interrupted: {len(rows)} of {len(recordings)} recordings are done and kept.", EXIT_INTERRUPTED)
    if failed := sum(row["status"] != "ok" for row in rows):
        stop(f"{failed} of {len(rows)} recordings could not be scored; the rows say why.", EXIT_FAILED)


def _load(settings: Settings) -> tuple[Any, list[str]]:
    """The pipeline, and the names of its scores in a row."""
    from hf_sqa.scoring.scorer import load_pipeline

    quiet()
    try:
        scorer = load_pipeline(settings)
    except ValueError as error:
        stop(error)
    config = scorer.model.config
    return scorer, score_columns(config.score_names, config.score_intervals, settings.interval)


def _load_graph(settings: Settings) -> tuple[Any, list[str]]:
    """The same without torch, for a folder with a graph."""
    from hf_sqa.lite import LitePipeline

    num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    options = {"hop_seconds": settings.hop_seconds, "interval": settings.interval, "return_timeline": settings.timeline}
    try:
        scorer = LitePipeline(settings.model or "", num_threads=num_threads, **options)
        return scorer, scorer.columns(settings.interval)
    except (OSError, ValueError) as error:
        stop(f"The model {settings.model!r} cannot be used: {error}")


def _scored(
    scorer: Any,
    recordings: list[tuple[str, Any]],
    score_names: Sequence[str],
    settings: Settings,
    batch_size: int,
    asked: dict[str, bool],
    backend: str,
) -> Generator[dict[str, Any], None, None]:
    """Yield a row a recording, in order."""
    from hf_sqa.audio import AudioError
    from hf_sqa.scoring.items import Refusal
    from hf_sqa.scoring.processes import scored

    audio_of_all = [audio for _, audio in recordings if not isinstance(audio, AudioError)]
    if backend == "torch":
        how: dict[str, Any] = {
            "num_processes": settings.num_processes,
            "num_workers": settings.num_workers,
            "batch_size": batch_size,
        }
        results = scored(scorer, audio_of_all, channel=settings.channel, **how, **asked)
    else:
        results = scorer(iter(audio_of_all), on_error="row", return_details=True, channel=settings.channel, **asked)
    with contextlib.closing(results), bar() as update:
        started, audio_seconds, failed = time.monotonic(), 0.0, 0
        for done, (name, audio) in enumerate(recordings, 1):
            result = asdict(Refusal.of(audio)) if isinstance(audio, AudioError) else next(results)
            row = file_row(name, score_names, result, asked)
            audio_seconds += row["duration_seconds"] or 0.0
            failed += row["status"] != "ok"
            rate = audio_seconds / max(time.monotonic() - started, 1e-3)
            update(done, len(recordings), f"{rate:.1f} audio-hours per hour, {failed} failed")
            yield row


def _draw(
    plot: Path, audio: Any, scorer: Any, settings: Settings, row: dict[str, Any], timeline: dict[str, Any], score: str
) -> None:
    from hf_sqa.audio import load_recording
    from hf_sqa.pipelines.quality_plot import plot_quality

    recording = load_recording(audio, channel=settings.channel)
    plot_quality(recording, timeline, row[score], plot, title=row["file"], score=score, method=scorer.local_method)
    say(f"Drawn: {plot}")
