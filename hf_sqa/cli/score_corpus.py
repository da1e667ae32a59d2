"""`hf-sqa score <corpus> --output <folder>`: from what is typed to a run over a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

EXIT_USAGE = 2


def score_corpus(corpus: str, output: Path, settings: dict[str, Any], options: dict[str, Any]) -> int:
    """Score a corpus into a folder and return the exit code.

    Args:
        corpus (`str`): What `hf_sqa.scoring.open_source` opens.
        output (`Path`): The folder.
        settings (`dict`): Options of the model as typed.
        options (`dict`): Options of the corpus as typed, by name, `None` where left out.
    """
    dtypes = ("float32", "bfloat16", "float16")
    if settings["dtype"] not in dtypes:
        return _stopped(f"Expected --dtype to be one of {', '.join(dtypes)}, got {settings['dtype']!r}.")
    channel = settings["channel"]
    if channel != "mean" and not channel.isdecimal():
        return _stopped(f"Expected --channel to be 'mean' or a channel number from 0, got {channel!r}.")
    from hf_sqa.scoring.__main__ import parse_part
    from hf_sqa.scoring.progress import run_and_tell
    from hf_sqa.scoring.scorer import Settings
    from hf_sqa.scoring.sinks import FORMATS
    from hf_sqa.scoring.sources import open_source

    unknown = [kind for kind in options["--format"] or () if kind not in FORMATS]
    if unknown:
        return _stopped(f"Expected --format to be one of {', '.join(FORMATS)}, got {unknown[0]!r}.")
    for name in ("--max-seconds", "--timeout"):
        if options[name] is not None and not options[name] > 0:
            return _stopped(f"Expected {name} above 0, got {options[name]:g}.")
    try:
        part = parse_part(options["--shards"] or "0/1")
        source = open_source(
            corpus,
            audio_column=options["--audio-column"],
            key_column=options["--key-column"],
            root=options["--root"],
            split=options["--split"],
        )
    except (OSError, ValueError, ImportError) as error:
        return _stopped(str(error))
    _quiet()
    chosen = {**settings, "channel": int(channel) if channel.isdecimal() else channel, "suffix": options["--suffix"]}
    chosen["max_seconds"] = options["--max-seconds"]
    if options["--timeout"] is not None:
        chosen["timeout_seconds"] = options["--timeout"]
    return run_and_tell(
        source,
        output,
        Settings(**chosen),
        formats=options["--format"] or (),
        say=lambda text: typer.echo(f"hf-sqa: {text}", err=True),
        part=part,
        rows_per_shard=options["--rows-per-shard"],
        keep=options["--keep"],
        retry_failed=bool(options["--retry-failed"]),
        rescore=bool(options["--rescore"]),
    )


def _quiet() -> None:
    import huggingface_hub
    from transformers.utils import logging

    huggingface_hub.logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _stopped(message: str) -> int:
    typer.echo(f"hf-sqa: {message}", err=True)
    return EXIT_USAGE
