"""Scores a corpus into an output folder, shard by shard; the next call resumes where the last one stopped."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.scoring.folder import as_begun, finish, hold_output, prepare
from hf_sqa.scoring.run_part import Part, Progress, RunOfPart
from hf_sqa.scoring.scorer import CorpusScorer, Settings
from hf_sqa.scoring.sources import Source, open_source


def score_corpus(
    source: str | os.PathLike | Source,
    output: str | os.PathLike,
    settings: Settings | None = None,
    *,
    scorer: Any = None,
    part: tuple[int, int] = (0, 1),
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    retry_failed: bool = False,
    rescore: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Any,
) -> Progress:
    """Score every recording of a corpus into shards of an output folder.

    Called again with the same arguments, it resumes where it stopped, however it stopped, and the output is the same byte for byte
    as that of a run that was never stopped. Shards are scored again if their rows in the source have changed. A key that occurs
    twice gives two rows, distinguished by `row`, the row number in the source.

    Args:
        source: Anything that [`open_source`] opens, or an open source.
        output (`str` or `Path`): The output folder; created if it does not exist.
        settings ([`Settings`], *optional*): How to score; or its fields as keyword arguments.
        scorer (`AudioQualityPipeline`, *optional*): A pipeline that is already loaded.
        part (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): `(i, n)` scores the shards whose number leaves `i` when divided
            by `n`; as many processes as there are parts may write into one output folder.
        rows_per_shard (`int`, *optional*): Rows in a shard; that of the output folder, or 500, if not given.
        keep (sequence of `str`, *optional*): Columns of the source to keep, as text; the usual ones for groups if not given.
        retry_failed (`bool`, *optional*, defaults to `False`): Whether to score rows with the status `failed` again.
        rescore (`bool`, *optional*, defaults to `False`): Whether to replace scores of another model, mode or source; if not, an
            output folder that holds such scores is refused.
        on_progress (*optional*): Called after every row.
        **more: Fields of [`Settings`].

    Returns:
        [`Progress`]: What was done.

    Raises:
        RunMismatch: If the output folder holds scores of another source, model, mode or layout.
        Locked: If another process writes the same part.
        OutputError: If the output cannot be written; finished shards stay.
    """
    settings = replace(settings or Settings(), **more)
    index, number = part
    if number < 1 or not 0 <= index < number:
        raise ValueError(f"Expected a part i/n with i from 0 to n - 1, got {index}/{number}.")
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source)
    output = Path(output)
    worker = CorpusScorer(as_begun(settings, output, rescore), scorer)
    with hold_output(output, part):
        begun = as_begun(settings, output, rescore)
        if scorer is None and begun.dtype not in (settings.dtype, worker.identity["dtype"]):
            worker = CorpusScorer(begun)  # another kind of processor began another part while the model was loaded
        run = prepare(output, source, worker, rows_per_shard=rows_per_shard, keep=keep, rescore=rescore)
        run_of_part = RunOfPart(output, run, source, worker, Part(*part), retry_failed=retry_failed, on_progress=on_progress)
        progress = run_of_part.go()
        progress.complete = finish(output, run, progress.rows_in_source or 0, Part(*part))
        return progress
