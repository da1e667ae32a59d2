"""Ray Data runs the shards: an actor takes the next piece of the corpus when it is free, and another takes over if it dies."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.scoring.run import Progress, RunOfPart
from hf_sqa.scoring.scorer import CorpusScorer, Settings
from hf_sqa.scoring.shards import read_run
from hf_sqa.scoring.sources import Source, open_source

#: The corpus has at least this many pieces per actor, so that little is left for the last actor at the end.
PIECES_PER_ACTOR = 8


def score_with_ray(
    output: Path, run: dict[str, Any], source: Source, worker: CorpusScorer, num_actors: int, num_gpus: float, retry_failed: bool
) -> Progress:
    """Score the shards of a run by actors; they are the same byte for byte as those of a single process."""
    import ray.data

    settings = replace(worker.settings, dtype=worker.identity["dtype"])  # `auto` could mean another precision on another node
    num_rows = source.total if source.total is not None else sum(1 for _ in source.items(lambda position: False))
    num_shards = math.ceil(num_rows / run["rows_per_shard"])
    step = max(1, math.ceil(num_shards / (num_actors * PIECES_PER_ACTOR)))
    pieces = [{"first": first, "stop": min(first + step, num_shards)} for first in range(0, num_shards, step)]
    progress = Progress(total=num_rows, rows_in_source=num_rows)
    if pieces:
        scored = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
            ShardActor,
            batch_size=1,
            concurrency=num_actors,
            num_cpus=1,
            num_gpus=num_gpus or None,
            fn_constructor_args=(run["source"], dict(source.reading), output.absolute(), settings, retry_failed),
        )
        for done in scored.iter_rows():
            progress.rows += int(done["rows"])
            progress.kept += int(done["kept"])
            progress.shards += int(done["shards"])
    return progress


class ShardActor:
    """A model in a Ray actor; called with a piece of the corpus, it scores the shards of that piece into the output folder."""

    def __init__(self, corpus: str, reading: dict[str, str], output: Path, settings: Settings, retry_failed: bool):
        self._source = open_source(corpus, **reading)
        self._worker = CorpusScorer(settings)
        self._output, self._retry_failed = output, retry_failed

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        piece = range(int(batch["first"][0]), int(batch["stop"][0]))
        run = read_run(self._output)
        progress = RunOfPart(self._output, run, self._source, self._worker, piece, retry_failed=self._retry_failed).go()
        return {name: [getattr(progress, name)] for name in ("rows", "kept", "shards")}
