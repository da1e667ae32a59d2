"""Ray Data runs the shards: an actor takes the next piece of the corpus when it is free, and another takes over if it dies."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.extras import import_extra
from hf_sqa.scoring.folder import as_begun, finish, hold_output, prepare
from hf_sqa.scoring.run_part import Part, Progress, RunOfPart
from hf_sqa.scoring.scorer import CorpusScorer, Settings
from hf_sqa.scoring.shards import read_run
from hf_sqa.scoring.sources import Source, open_source

#: The corpus has at least this many pieces per actor, so that little is left for the last actor at the end.
PIECES_PER_ACTOR = 8


def score_with_ray(
    source: Source,
    output: str | os.PathLike,
    settings: Settings,
    *,
    num_actors: int = 1,
    num_gpus: float = 0.0,
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    retry_failed: bool = False,
    rescore: bool = False,
) -> Progress:
    """Run [`score_corpus`] on a Ray cluster; the shards are the same byte for byte.

    Every node must see source and output under the same names, and have the checkpoint. A running cluster is used if there is one;
    otherwise one is started on this machine.

    Args:
        num_actors (`int`, *optional*, defaults to 1): Number of actors, each with a model.
        num_gpus (`float`, *optional*, defaults to 0): Accelerators per actor.
        source, output, settings, rows_per_shard, keep, retry_failed, rescore: As in [`score_corpus`].

    Raises:
        ImportError: If Ray is not installed.
    """
    ray_data = import_extra("ray.data", "The Ray engine", "scale")
    output = Path(output).absolute()
    with hold_output(output):
        worker = CorpusScorer(as_begun(settings, output, rescore))  # its identity decides whether the output may be used
        settings = replace(settings, dtype=worker.identity["dtype"])  # `auto` could mean another precision on another node
        run = prepare(output, source, worker, rows_per_shard=rows_per_shard, keep=keep, rescore=rescore)
        num_rows = source.total if source.total is not None else sum(1 for _ in source.items(lambda position: False))
        num_shards = math.ceil(num_rows / run["rows_per_shard"])
        step = max(1, math.ceil(num_shards / (num_actors * PIECES_PER_ACTOR)))
        pieces = [{"first": first, "stop": min(first + step, num_shards)} for first in range(0, num_shards, step)]
        progress = Progress(total=num_rows, rows_in_source=num_rows)
        if pieces:
            options = (run["source"], dict(source.reading), str(output), settings, retry_failed)
            scored = ray_data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
                ShardActor,
                batch_size=1,
                concurrency=num_actors,
                num_cpus=1,
                num_gpus=num_gpus or None,
                fn_constructor_args=options,
            )
            for done in scored.iter_rows():
                progress.rows += int(done["rows"])
                progress.kept += int(done["kept"])
                progress.shards += int(done["shards"])
        progress.complete = finish(output, run, num_rows, Part())
    return progress


class ShardActor:
    """A model in a Ray actor; called with a piece of the corpus, it scores the shards of that piece into the output folder."""

    def __init__(self, corpus: str, reading: dict[str, str], output: str, settings: Settings, retry_failed: bool):
        self._source = open_source(corpus, **reading)
        self._worker = CorpusScorer(settings)
        self._output, self._retry_failed = Path(output), retry_failed

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        run = read_run(self._output)
        progresses = [
            RunOfPart(
                self._output, run, self._source, self._worker, Part(int(first), 1, int(stop)), retry_failed=self._retry_failed
            ).go()
            for first, stop in zip(batch["first"], batch["stop"], strict=True)
        ]
        return {name: [getattr(progress, name) for progress in progresses] for name in ("rows", "kept", "shards")}
