"""`hf-sqa score`: a table of scores for files, folders, lists and streams."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

PLOT_SUFFIXES = (".png", ".pdf", ".svg")
EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def score(
    audio: Annotated[
        list[str],
        typer.Argument(
            help="Files, URLs, folders (searched in depth), globs, `@list.txt` (a name a line), `-` (audio on standard input), "
            "`@-` (names on standard input).",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="`default` (Distill-MOS v7), a local folder, or a Hub id.")] = "default",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write rows to `.csv`, `.jsonl` or `.parquet`; `-`: JSON lines to stdout.")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="Order of the table: `worst` or `best` first, by `name`, or as in the `input`.")
    ] = "worst",
    mode: Annotated[
        str | None, typer.Option(help="`published` (the original's windows) or `fast` (shared work; 0.02 MOS off, at most 0.04).")
    ] = None,
    hop_seconds: Annotated[
        float | None, typer.Option(help="Distance of the windows of long recordings; 1.0 is the published one, larger is faster.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="`float32`, `bfloat16` (twice as fast where the processor has it) or `float16`.")
    ] = "float32",
    device: Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`, `mps`; the first accelerator, else `cpu`.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings handed to the model together; never changes a score.")] = 1,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode and resample.")] = 0,
    channel: Annotated[str, typer.Option(help="`mean` of the channels, or one of them by number from 0.")] = "mean",
    segments: Annotated[bool, typer.Option("--segments", help="Add the score of every window.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw one recording's waveform with its quality over time into this PNG, PDF or SVG.")
    ] = None,
) -> None:
    """Score recordings, without a reference, on the five-point scale.

    Prints a table, worst first; `--output` writes a file too. A recording that cannot be scored is a row with its reason; the
    others are scored, and the exit code is 1. Exit code 2: nothing could be done. Ctrl-C keeps what is done.

    Examples:

    - `hf-sqa score calls/`
    - `hf-sqa score "tts/**/*.wav" --output scores.csv`
    - `hf-sqa score call.wav --plot call.png`
    - `cat call.wav | hf-sqa score -`
    """
    from hf_sqa.cli.files import find_recordings
    from hf_sqa.cli.tables import SORTS, RowWriter, print_table, sort_rows

    if sort not in SORTS:
        _stop(f"Expected --sort to be one of {', '.join(SORTS)}, got {sort!r}.")
    if channel != "mean" and not channel.isdecimal():
        _stop(f"Expected --channel to be 'mean' or a channel number from 0, got {channel!r}.")
    try:
        recordings = list(find_recordings(audio))
    except (OSError, ValueError) as error:
        _stop(str(error))
    if not recordings:
        _stop("There is nothing to score: the list is empty.")
    if plot is not None and len(recordings) != 1:
        _stop(f"--plot draws one recording, got {len(recordings)}; name one file.")
    if plot is not None and (plot.suffix.lower() not in PLOT_SUFFIXES or not plot.parent.is_dir()):
        _stop(f"Expected --plot to end in {', '.join(PLOT_SUFFIXES)} and to lie in a folder that exists, got {str(plot)!r}.")
    scorer = _load(model, dtype, device, mode, hop_seconds)
    try:
        writer = RowWriter(output, sys.stdout) if output is not None else None
    except (OSError, ValueError) as error:
        _stop(str(error))

    names = scorer.model.config.score_names
    options = {"channel": int(channel) if channel.isdecimal() else channel, "return_segments": segments or plot is not None}
    rows: list[dict[str, Any]] = []
    interrupted = False
    try:
        for row in _scored(scorer, recordings, options, batch_size, num_workers):
            if not segments:
                drawn = row.pop("segments", [])
            rows.append(row)
            if writer:
                writer.write(row)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if writer:
            writer.close()

    if output is None or str(output) != "-":
        print_table(sort_rows(rows, names[0], sort), names, _console(stderr=False))
    if plot is not None and rows and rows[0]["status"] == "ok":
        from hf_sqa.audio import load_recording
        from hf_sqa.pipelines.quality_plot import plot_quality

        drawn = rows[0]["segments"] if segments else drawn
        plot_quality(
            load_recording(recordings[0][1], channel=options["channel"]),
            drawn,
            rows[0][names[0]],
            plot,
            title=rows[0]["file"],
            score=names[0],
        )
        typer.echo(f"Drawn: {plot}", err=True)
    failed = sum(row["status"] != "ok" for row in rows)
    if interrupted:
        typer.echo(f"Interrupted: {len(rows)} of {len(recordings)} recordings are done and kept.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if failed:
        typer.echo(f"{failed} of {len(rows)} recordings could not be scored; the rows say why.", err=True)
        raise typer.Exit(EXIT_SOME_FAILED)


def _load(model: str, dtype: str, device: str | None, mode: str | None, hop_seconds: float | None) -> Any:
    """Load the pipeline, quietly; stop with one readable message if that fails."""
    dtypes = ("float32", "bfloat16", "float16")
    if dtype not in dtypes:
        _stop(f"Expected --dtype to be one of {', '.join(dtypes)}, got {dtype!r}.")
    import huggingface_hub
    from safetensors import SafetensorError
    from transformers.utils import logging

    huggingface_hub.logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    import hf_sqa.pipelines

    scoring = {name: value for name, value in (("mode", mode), ("hop_seconds", hop_seconds)) if value is not None}
    try:
        return hf_sqa.pipelines.pipeline(model, dtype=dtype, device=device, **scoring)
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:  # Assertion: no CUDA
        _stop(f"The model {model!r} cannot be used: {' '.join(str(error).split())}")


def _scored(
    scorer: Any, recordings: list[tuple[str, Any]], options: dict[str, Any], batch_size: int, num_workers: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a recording, in order, with a progress bar on standard error if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hf_sqa.audio import AudioError

    results = scorer(
        Recordings([audio for _, audio in recordings if not isinstance(audio, AudioError)]),
        batch_size=batch_size,
        num_workers=num_workers,
        on_error="row",
        return_details=True,
        **options,
    )
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=_console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=len(recordings))
        started, audio_seconds, failed = time.monotonic(), 0.0, 0
        for name, audio in recordings:
            row = _failed_row(scorer, audio) if isinstance(audio, AudioError) else next(results)
            row = _row(name, scorer.model.config.score_names, row, options["return_segments"])
            audio_seconds += row["duration_seconds"] or 0.0
            failed += row["status"] != "ok"
            rate = audio_seconds / max(time.monotonic() - started, 1e-3)
            progress.update(task, advance=1, description=f"{rate:.1f} audio-hours per hour, {failed} failed")
            yield row


class Recordings:
    """Recordings that the pipeline goes through lazily, as it does through a dataset; a list it would score to the end first."""

    def __init__(self, recordings: list[Any]):
        self._recordings = recordings

    def __len__(self) -> int:
        return len(self._recordings)

    def __getitem__(self, index: int) -> Any:
        return self._recordings[index]


def _failed_row(scorer: Any, error: Any) -> dict[str, Any]:
    scores = dict.fromkeys(scorer.model.config.score_names, float("nan"))
    return {**scores, "status": error.status, "code": error.code, "reason": error.message}


def _row(name: str, score_names: list[str], result: dict[str, Any], with_segments: bool) -> dict[str, Any]:
    row = {
        # A file name that is not UTF-8 can be opened but not written to a table.
        "file": os.fsencode(name).decode("utf-8", "backslashreplace"),
        **{score: result[score] for score in score_names},
        "status": result["status"],
        "code": result["code"],
        "reason": result["reason"],
        "warnings": [finding["code"] for finding in result.get("warnings", [])],
        "duration_seconds": result.get("duration_seconds"),
        "sampling_rate": result.get("sampling_rate"),
    }
    if with_segments:
        row["segments"] = result.get("segments", [])
    return row


def _console(stderr: bool) -> Any:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    return console


def _stop(message: str) -> Any:
    typer.echo(f"hf-sqa: {message}", err=True)
    raise typer.Exit(EXIT_USAGE)
