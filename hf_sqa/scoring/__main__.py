"""`python -m hf_sqa.scoring <corpus> --output out/`: the same run for one rank of torchrun, accelerate or Slurm, or for Ray.

Under `torchrun` and `accelerate launch` every process takes the shards of its rank, on its own accelerator. The processes need not
talk to each other: a rank that dies leaves its shards to the next run.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.scoring.decoding import DEFAULT_TIMEOUT_SECONDS
from hf_sqa.scoring.progress import EXIT_USAGE, run_and_tell
from hf_sqa.scoring.scorer import Settings
from hf_sqa.scoring.sinks import FORMATS
from hf_sqa.scoring.sources import open_source

ENGINES = ("local", "ray")


def main(arguments: list[str] | None = None) -> int:
    """Parse, score, return the exit code."""
    options = _parser().parse_args(arguments)
    settings = Settings(
        model=options.model,
        mode=options.mode,
        hop_seconds=options.hop_seconds,
        dtype=options.dtype,
        device=options.device,
        channel=int(options.channel) if options.channel.isdecimal() else options.channel,
        max_seconds=options.max_seconds,
        timeout_seconds=options.timeout,
        num_workers=options.num_workers,
        suffix=options.suffix,
    )
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        source = open_source(
            options.corpus,
            audio_column=options.audio_column,
            key_column=options.key_column,
            root=options.root,
            split=options.split,
        )
        part = parse_part(options.shards)
        if world_size > 1:
            # Shards of this part of the array, one after the other to each rank: rank r of part i of n takes i + n * r.
            part = (part[0] + part[1] * rank, part[1] * world_size)
            settings = replace(settings, device=settings.device or _device_of_rank())
        more: dict[str, Any] = {"retry_failed": options.retry_failed, "rescore": options.rescore}
        more |= {"rows_per_shard": options.rows_per_shard, "keep": options.keep}
        if options.engine == "ray":
            from hf_sqa.scoring.ray_engine import score_with_ray

            progress = score_with_ray(source, options.output, settings, num_actors=options.actors, num_gpus=options.gpus, **more)
            _say(f"{progress.rows:,} rows scored by Ray in {progress.shards:,} shards.")
            return 0 if progress.complete else 1
    except (OSError, ValueError, ImportError) as error:
        _say(str(error))
        return EXIT_USAGE
    say = _say if world_size == 1 else lambda text: _say(f"rank {rank}: {text}")
    return run_and_tell(source, options.output, settings, formats=options.format, say=say, part=part, **more)


def parse_part(text: str) -> tuple[int, int]:
    """`"3/8"` to `(3, 8)`.

    Raises:
        ValueError: If it is no part.
    """
    first, slash, second = text.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal() or not int(first) < int(second):
        raise ValueError(f"Expected --shards as i/n with i from 0 to n - 1, such as 0/8, got {text!r}.")
    return int(first), int(second)


def _device_of_rank() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "cpu"


def _say(text: str) -> None:
    sys.stderr.write(f"hf-sqa: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m hf_sqa.scoring", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", help="what `hf-sqa score` takes: a folder, glob, manifest, table, tar, hub:<repository>, URL")
    parser.add_argument("--output", type=Path, required=True, help="output folder")
    parser.add_argument("--model")
    parser.add_argument("--mode")
    parser.add_argument("--hop-seconds", type=float)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", help="of all ranks; an accelerator each if not given")
    parser.add_argument("--channel", default="mean")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_SECONDS)
    parser.add_argument("--num-workers", type=int)
    parser.add_argument("--suffix")
    parser.add_argument("--rows-per-shard", type=int)
    parser.add_argument("--keep", nargs="*")
    parser.add_argument("--audio-column")
    parser.add_argument("--key-column")
    parser.add_argument("--root")
    parser.add_argument("--split")
    parser.add_argument("--shards", default="0/1", help="part i of n of the shards, i from 0: for arrays of jobs")
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--rescore", action="store_true")
    parser.add_argument("--format", action="append", default=[], choices=FORMATS)
    parser.add_argument("--engine", choices=ENGINES, default="local")
    parser.add_argument("--actors", type=int, default=1, help="workers of the Ray engine")
    parser.add_argument("--gpus", type=float, default=0.0, help="accelerators of a worker of the Ray engine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
