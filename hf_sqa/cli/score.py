"""`hf-sqa score`: a table of scores for files, folders, lists and streams."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.stopping import stop

PLOT_SUFFIXES = (".png", ".pdf", ".svg")
EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
#: Heading of options in the help.
CORPUS = "A corpus into a folder"


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
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Write rows to `.csv`, `.jsonl` or `.parquet`; `-`: JSON lines to stdout; a folder, `out/`: score a corpus into "
            "it, and go on there when called again.",
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Order of the table: `worst` (the default), `best`, `name` or `input`.")] = None,
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
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Recordings handed to the model together, 1 by default; never changes a score.")
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode and resample; by default none for files, for a corpus as needed."),
    ] = None,
    channel: Annotated[str, typer.Option(help="`mean` of the channels, or one of them by number from 0.")] = "mean",
    segments: Annotated[bool, typer.Option("--segments", help="Add the score of every window.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw one recording's waveform with its quality over time into this PNG, PDF or SVG.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the corpus that goes along; again for more, `all`.", rich_help_panel=CORPUS, show_default=False
        ),
    ] = None,
    audio_column: Annotated[
        str | None, typer.Option(help="Column of recordings, if its name is not a usual one.", rich_help_panel=CORPUS)
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column of keys, if its name is not a usual one.", rich_help_panel=CORPUS)
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder that relative paths begin in; the manifest's own by default.", rich_help_panel=CORPUS)
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set.", rich_help_panel=CORPUS)] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="End of the score columns, by default the model's name: `mos__<suffix>`.", rich_help_panel=CORPUS),
    ] = None,
    output_format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Write this too when all is scored: `jsonl`, `csv`, `parquet`, `datasets`, or `manifest` with columns added.",
            rich_help_panel=CORPUS,
            show_default=False,
        ),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Skip longer recordings.", rich_help_panel=CORPUS)] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that decoding one recording may take; 300 by default.", rich_help_panel=CORPUS)
    ] = None,
    rows_per_shard: Annotated[
        int | None, typer.Option(min=1, help="What a kill may cost; 500 by default.", rich_help_panel=CORPUS)
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="Part `i/n` of the shards, i from 0, for arrays of jobs.", rich_help_panel=CORPUS)
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Score failed rows again.", rich_help_panel=CORPUS)] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Replace scores of another model or mode.", rich_help_panel=CORPUS)
    ] = False,
) -> None:
    """Score recordings, without a reference, on the five-point scale.

    Prints a table, worst first; `--output` writes a file too. A recording that cannot be scored is a row with its reason; the
    others are scored, and the exit code is 1. Exit code 2: nothing could be done. Ctrl-C keeps what is done.

    With a folder as `--output`, one corpus of any size: a folder, glob, manifest (NeMo, Lhotse, URGENT, any JSON lines), `.csv`,
    `.parquet`, WebDataset `.tar`, saved data set, `hub:<repository>`, or any of them behind a URL. Killed at any moment, the same
    command goes on. Every row has a score or a reason, and the exit code is 0 when there are no more; see `hf-sqa report`.

    Examples:

    - `hf-sqa score calls/`
    - `hf-sqa score "tts/**/*.wav" --output scores.csv`
    - `hf-sqa score call.wav --plot call.png`
    - `cat call.wav | hf-sqa score -`
    - `hf-sqa score manifest.jsonl --output out/`
    """
    corpus_options = {
        "--keep": keep,
        "--audio-column": audio_column,
        "--key-column": key_column,
        "--root": root,
        "--split": split,
        "--suffix": suffix,
        "--format": output_format,
        "--max-seconds": max_seconds,
        "--timeout": timeout,
        "--rows-per-shard": rows_per_shard,
        "--shards": shards,
        "--retry-failed": retry_failed or None,
        "--rescore": rescore or None,
    }
    if output is not None and _is_folder(output):
        if len(audio) != 1:
            stop(f"Expected one corpus for the folder {output!r}, got {len(audio)}; list them in a manifest.")
        file_options = {
            "--sort": sort,
            "--batch-size": batch_size,
            "--segments": segments or None,
            "--plot": plot,
        }
        _refuse(file_options, f"does not go with --output {output!r}, a folder; name a file ending in .csv, .jsonl or .parquet")
        from hf_sqa.cli.score_corpus import score_corpus

        settings = {
            "model": model,
            "mode": mode,
            "hop_seconds": hop_seconds,
            "dtype": dtype,
            "device": device,
            "channel": channel,
            "num_workers": num_workers,
        }
        raise typer.Exit(score_corpus(audio[0], Path(output), settings, corpus_options))
    _refuse(corpus_options, "needs a folder as --output, such as out/")
    sort, batch_size, num_workers = sort or "worst", batch_size or 1, num_workers or 0
    from hf_sqa.cli.files import find_recordings
    from hf_sqa.cli.tables import SORTS, RowWriter, print_table, sort_rows

    if sort not in SORTS:
        stop(f"Expected --sort to be one of {', '.join(SORTS)}, got {sort!r}.")
    if channel != "mean" and not channel.isdecimal():
        stop(f"Expected --channel to be 'mean' or a channel number from 0, got {channel!r}.")
    try:
        recordings = list(find_recordings(audio))
    except (OSError, ValueError) as error:
        stop(str(error))
    if not recordings:
        stop("There is nothing to score: the list is empty.")
    if plot is not None and len(recordings) != 1:
        stop(f"--plot draws one recording, got {len(recordings)}; name one file.")
    if plot is not None and (plot.suffix.lower() not in PLOT_SUFFIXES or not plot.parent.is_dir()):
        stop(f"Expected --plot to end in {', '.join(PLOT_SUFFIXES)} and to lie in a folder that exists, got {str(plot)!r}.")
    scorer = _load(model, dtype, device, mode, hop_seconds)
    try:
        writer = RowWriter(Path(output), sys.stdout) if output is not None else None
    except (OSError, ValueError) as error:
        stop(str(error))

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

    if output != "-":
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


def _is_folder(output: str) -> bool:
    return output != "-" and (output.endswith(("/", os.sep)) or Path(output).is_dir() or not Path(output).suffix)


def _refuse(options: dict[str, Any], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            stop(f"{option} {why}.")


def _load(model: str, dtype: str, device: str | None, mode: str | None, hop_seconds: float | None) -> Any:
    """Load the pipeline, quietly; stop with one readable message if that fails."""
    dtypes = ("float32", "bfloat16", "float16")
    if dtype not in dtypes:
        stop(f"Expected --dtype to be one of {', '.join(dtypes)}, got {dtype!r}.")
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
        stop(f"The model {model!r} cannot be used: {' '.join(str(error).split())}")


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
