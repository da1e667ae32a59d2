"""`hf-sqa score <files>`: scores named files into rows, a table and a plot."""

import contextlib
import os
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.cells import file_row
from hf_sqa.cli.files import find_recordings
from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, check_plot, quiet, say, stop
from hf_sqa.cli.tables import SORTS, make_console, mean_and_worst, print_table, row_writer, sort_rows
from hf_sqa.progress import bar
from hf_sqa.scoring.items import Refusal
from hf_sqa.scoring.processes import scored
from hf_sqa.scoring.scorer import Settings, load_pipeline

#: Keys of a row that are written only if the user asked for a timeline, because faults can be false alarms.
COURSE = ("timeline", "faults")


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
    """Score recordings, print and write the results; see `hf-sqa score --help`."""
    if sort not in SORTS:
        stop(f"Expected --sort to be one of {', '.join(SORTS)}, got {sort!r}.")
    recordings = list(find_recordings(names))
    if not recordings:
        stop("There is nothing to score: the list is empty.")
    if plot is not None:
        if len(recordings) != 1:
            stop(f"--plot draws one recording, got {len(recordings)}; name one file.")
        check_plot(plot)
    scorer: Any
    if backend == "onnx":
        from hf_sqa.lite import LitePipeline

        options = {"hop_seconds": settings.hop_seconds, "interval": settings.interval, "return_timeline": settings.timeline}
        scorer = LitePipeline(settings.model or "", num_threads=int(os.environ.get("OMP_NUM_THREADS") or 0), **options)
    else:
        quiet()
        scorer = load_pipeline(settings)
    score_names = scorer.columns(settings.interval)
    writer = row_writer(Path(output), sys.stdout) if output is not None else None
    rows: list[dict[str, Any]] = []
    interrupted, unwritten = False, None
    # If a head for local quality makes it cheap, always show more than a mean.
    with_timeline = settings.timeline or plot is not None or scorer.local_is_cheap
    asked = {"return_segments": with_segments, "return_timeline": with_timeline}
    how: dict[str, Any] = {"channel": settings.channel, **asked}
    audio = [audio for _, audio in recordings if not isinstance(audio, AudioError)]
    if backend == "onnx":
        results = scorer(iter(audio), on_error="row", return_details=True, **how)
    else:
        processes: dict[str, Any] = {"num_processes": settings.num_processes, "num_workers": settings.num_workers}
        results = scored(scorer, audio, batch_size=batch_size, **processes, **how)
    whole: dict[str, Any] = {}
    try:
        try:
            with contextlib.closing(_rows(recordings, results, score_names, asked)) as whole_rows:
                for whole in whole_rows:
                    rows.append({name: value for name, value in whole.items() if settings.timeline or name not in COURSE})
                    if writer:
                        writer.write(rows[-1])
        except KeyboardInterrupt:
            interrupted = True
        if writer:
            writer.close()
    except OSError as error:
        unwritten = error
    if output != "-":
        console = make_console()
        print_table(sort_rows(rows, score_names[0], sort), score_names, console)
        if len(rows) > 1:
            console.print(f"\n{mean_and_worst(rows, score_names[0])}", markup=False, soft_wrap=True)
    if plot is not None and whole.get("status") == "ok":
        from hf_sqa.pipelines.quality_plot import plot_quality

        recording, score = load_recording(audio[0], channel=settings.channel), score_names[0]
        plot_quality(recording, whole, whole[score], plot, title=whole["file"], score=score, method=scorer.local_method)
        say(f"Drawn: {plot}")
    if unwritten is not None:
        stop(f"{output!r} cannot be written to its end ({unwritten.strerror or unwritten}); {len(rows)} recordings were scored.")
    if interrupted:
        stop(f"Interrupted: {len(rows)} of {len(recordings)} recordings are done and kept.", EXIT_INTERRUPTED)
    if failed := sum(row["status"] != "ok" for row in rows):
        stop(f"{failed} of {len(rows)} recordings could not be scored; the rows say why.", EXIT_FAILED)


def _rows(
    recordings: list[tuple[str, Any]], results: Any, score_names: Sequence[str], asked: dict[str, bool]
) -> Generator[dict[str, Any], None, None]:
    """Yield one row per recording, in order; `results` holds the results of the recordings that were found."""
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
