"""`hf-sqa score`: scores files, folders, lists and streams into a table, or a corpus of any size into a folder."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import BatchSize, Channel, Device, Model, parse_channel, settings_of
from hf_sqa.cli.stopping import faults_end_it, is_given, refuse, stop

DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Suffixes of files that name or hold many recordings.
LISTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".parquet", ".tar", ".tgz")
BACKENDS = ("torch", "onnx")
FILES_ONLY = ("sort", "batch_size", "segments", "plot", "backend")
#: Options that need torch, not only a graph.
TORCH_ONLY = ("mode", "dtype", "device", "batch_size", "num_workers", "num_processes", "plot")
#: Title of the options for a corpus in the help.
CORPUS_ONLY = "A corpus into a folder"


def _corpus(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=CORPUS_ONLY, show_default=False, **more)


Audio = Annotated[
    list[str],
    typer.Argument(
        help="Files, URLs, folders (searched in depth), globs, `@list.txt` (one name per line), `-` (audio on standard input), "
        "`@-` (names on standard input)."
    ),
]
Backend = Annotated[
    str,
    typer.Option(help="`onnx`: score by the ONNX graph in the folder `--model`, without torch: the first score comes in a second."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Write rows to `.csv`, `.jsonl` or `.parquet`; `-`: JSON lines to stdout; a folder, `out/`: score a corpus into "
        "it, and resume there when called again.",
    ),
]
Sort = Annotated[str, typer.Option(help="Order of the table: `worst`, `best`, `name` or `input`.")]
Mode = Annotated[
    str | None,
    typer.Option(
        help="`published` (the original's windows) or `fast` (shared work; 0.03 MOS off, at most 0.07); `whole` for DNSMOS."
    ),
]
HopSeconds = Annotated[
    float | None, typer.Option(help="Distance of the windows of long recordings; 1.0 is the published one, larger is faster.")
]
Interval = Annotated[
    float | None,
    typer.Option(
        help="Add `mos_low` and `mos_high`: where the mean rating of listeners lies in this share of recordings, such as 0.9, if "
        "they are like those that the model was calibrated on (`hf-sqa calibrate`)."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="`float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on a processor that computes in it, if the model's scores are "
        "known to move by less than 0.01 (Distill-MOS v7), else float32. A corpus stays in the precision it was begun in."
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode and resample; 1 by default, for a corpus on an accelerator up to 8. With 0, a file at which a "
        "decoder crashes ends the command.",
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that decode and score, on a CPU, each with the model and one thread. By default one per core for small "
        "models (DNSMOS, NISQA, students) where there is work for some seconds; 1 leaves the other cores alone.",
    ),
]
Segments = Annotated[bool, typer.Option("--segments", help="Add the score of every window.")]
Timeline = Annotated[
    bool,
    typer.Option(
        "--timeline",
        help="Add the quality of every half second, the worst stretch and the faults; to a corpus, the worst stretch of every "
        "recording. It takes 1.1 to 2.5 times as long.",
    ),
]
Plot = Annotated[
    Path | None, typer.Option(help="Draw one recording's waveform with its quality over time into this PNG, PDF or SVG.")
]
Keep = Annotated[list[str] | None, _corpus(help="Column of the corpus to keep; may be repeated; `all` for every column.")]
AudioColumn = Annotated[str | None, _corpus(help="Column of recordings, if its name is not a usual one.")]
KeyColumn = Annotated[str | None, _corpus(help="Column of keys, if its name is not a usual one.")]
Root = Annotated[str | None, _corpus(help="Folder that relative paths begin in; the manifest's own by default.")]
Split = Annotated[str | None, _corpus(help="Split of a data set.")]
Suffix = Annotated[str | None, _corpus(help="End of the score columns, by default the model's name: `mos__<suffix>`.")]
Format = Annotated[
    list[str] | None,
    _corpus(
        "--format",
        help="Also write this once everything is scored: `jsonl`, `csv`, `parquet`, `datasets`, or `manifest` with columns added.",
    ),
]
MaxSeconds = Annotated[float | None, _corpus(help="Skip longer recordings.")]
Timeout = Annotated[float, _corpus("--timeout", help="Seconds that decoding one recording may take; 300 by default.")]
RowsPerShard = Annotated[int | None, _corpus(min=1, help="Rows that a kill may cost; 500 by default.")]
Shards = Annotated[str, _corpus(help="Part `i/n` of the shards, i from 0, for arrays of jobs.")]
RetryFailed = Annotated[bool, _corpus("--retry-failed", help="Score failed rows again.")]
Rescore = Annotated[bool, _corpus("--rescore", help="Replace scores of another model or mode.")]
Engine = Annotated[str, _corpus(help="`local`, or `ray` for a Ray cluster.")]
Actors = Annotated[int, _corpus(min=1, help="With `--engine ray`: actors, each with a model; 1 by default.")]
Gpus = Annotated[float, _corpus(min=0.0, help="With `--engine ray`: accelerators of an actor; 0 by default.")]


@faults_end_it()
def score(
    context: typer.Context,
    audio: Audio,
    model: Model = "default",
    backend: Backend = "torch",
    output: Output = None,
    sort: Sort = "worst",
    mode: Mode = None,
    hop_seconds: HopSeconds = None,
    interval: Interval = None,
    dtype: Dtype = "auto",
    device: Device = None,
    batch_size: BatchSize = 1,
    num_workers: NumWorkers = None,
    num_processes: NumProcesses = None,
    channel: Channel = "mean",
    segments: Segments = False,
    timeline: Timeline = False,
    plot: Plot = None,
    keep: Keep = None,
    audio_column: AudioColumn = None,
    key_column: KeyColumn = None,
    root: Root = None,
    split: Split = None,
    suffix: Suffix = None,
    output_format: Format = None,
    max_seconds: MaxSeconds = None,
    timeout_seconds: Timeout = 300.0,
    rows_per_shard: RowsPerShard = None,
    shards: Shards = "0/1",
    retry_failed: RetryFailed = False,
    rescore: Rescore = False,
    engine: Engine = "local",
    actors: Actors = 1,
    gpus: Gpus = 0.0,
) -> None:
    """Score recordings, without a reference, on the five-point scale.

    Prints a table, worst first; `--output` also writes a file. A recording that cannot be scored is a row with the reason; the
    others are scored, and the exit code is 1. Exit code 2: nothing could be done. Ctrl-C keeps finished rows.

    With a folder as `--output`, scores one corpus of any size: a folder, glob, manifest (NeMo, Lhotse, URGENT, any JSON lines),
    `.csv`, `.xlsx`, `.parquet`, WebDataset `.tar`, saved data set, `hub:<repository>`, or any of these at a URL. The same command
    resumes a killed run. The exit code is 0 when every row has a score or a reason; see `hf-sqa report`. Under `torchrun` and
    `accelerate launch -m hf_sqa`, every process scores the shards of its rank.

    Examples:

    - `hf-sqa score calls/`
    - `hf-sqa score "tts/**/*.wav" --output scores.csv`
    - `hf-sqa score call.wav --plot call.png`
    - `hf-sqa score call.wav --timeline`
    - `cat call.wav | hf-sqa score -`
    - `hf-sqa score manifest.jsonl --output out/`
    """
    names_folder = output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir() or not Path(output).suffix)
    is_corpus = names_folder and output != "-"
    if is_corpus:
        why = f"does not go with --output {output!r}, a folder; name a file ending in .csv, .jsonl or .parquet"
        refuse(context, FILES_ONLY, why)
    else:
        for_corpora = [option.name for option in context.command.params if getattr(option, "rich_help_panel", "") == CORPUS_ONLY]
        refuse(context, for_corpora, "needs a folder as --output, such as out/")
        if len(audio) == 1 and Path(audio[0]).is_file() and audio[0].lower().endswith(LISTS):
            stop(f"{audio[0]!r} is a list of recordings, which is scored into a folder: add `--output out/`.")
    if backend not in BACKENDS:
        stop(f"Expected --backend to be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if backend == "onnx":
        refuse(context, TORCH_ONLY, "does not go with --backend onnx; leave one of them out")
        if model == "default":
            stop("--backend onnx needs a folder with a graph as --model; `hf-sqa export onnx <folder>` writes one.")
    if dtype not in DTYPES:
        stop(f"Expected --dtype to be one of {', '.join(DTYPES)}, got {dtype!r}.")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads are useless here, and prevent forking
    from hf_sqa.scoring.scorer import Settings

    settings = settings_of(Settings, {**locals(), "channel": parse_channel(channel)})
    if not is_corpus:
        from hf_sqa.cli.score_files import score_files

        score_files(audio, settings, output, sort=sort, batch_size=batch_size, with_segments=segments, plot=plot, backend=backend)
        return
    from hf_sqa.cli.score_corpus import score_corpus

    if len(audio) != 1:
        stop(f"Expected one corpus for the folder {output!r}, got {len(audio)}; list them in a manifest.")
    assert output is not None
    names = ("audio_column", "key_column", "root", "split")
    reading = {name: context.params[name] for name in names if is_given(context, name)}
    run: dict[str, Any] = {"rows_per_shard": rows_per_shard, "keep": keep, "retry_failed": retry_failed, "rescore": rescore}
    run |= {"shards": shards, "engine": engine, "actors": actors, "gpus": gpus}
    raise typer.Exit(score_corpus(audio[0], Path(output), settings, reading=reading, formats=output_format or [], **run))
