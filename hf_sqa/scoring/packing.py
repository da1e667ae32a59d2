"""Scores decoded recordings in packs where that is faster; the other recordings in a pack never change a score.

Which recordings share a pack depends on the recordings alone, not on when they were decoded, and no pack reaches beyond a shard: a
run that was interrupted and resumed hands the model the same packs as one that was not.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from hf_sqa.audio import Recording
from hf_sqa.scoring.items import Item, Refusal

#: Seconds of audio in a pack, padding included. A CPU gets one recording at a time, because its caches hold no more.
PACK_SECONDS = {"cpu": 0.0}
PACK_SECONDS_ELSEWHERE = 960.0
#: Packs of decoded audio that are collected before they are sorted by length: 64 kB for every second at 16 kHz.
PACKS_AHEAD = 4
#: If the model fails on the first this many recordings, the fault is in the model.
MAX_FAILURES_AT_FIRST = 20
#: Errors that a model raises for a recording that it cannot score; torch reports lack of memory as a RuntimeError.
MODEL_ERRORS = (RuntimeError, ValueError, MemoryError, IndexError)
FAILURE_CODES = ("model_failed", "out_of_memory")


class PackedScorer:
    """Scores recordings together in packs of `pack_seconds` with padding; `by_length` packs alike ones, for models that pad."""

    def __init__(self, score: Callable[[list[Recording]], list[dict[str, Any]]], pack_seconds: float, by_length: bool):
        self._score, self._pack_seconds, self._by_length = score, pack_seconds, by_length
        self._waiting: list[tuple[Item, Recording]] = []
        self._waiting_seconds = 0.0
        self._num_scored = self._failed_in_a_row = 0

    def add(self, item: Item, recording: Recording) -> Iterator[tuple[Item, dict[str, Any] | Refusal]]:
        """Add a recording and yield the results that are ready, in no particular order."""
        self._waiting.append((item, recording))
        self._waiting_seconds += recording.duration_seconds
        if self._waiting_seconds > PACKS_AHEAD * self._pack_seconds:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[Item, dict[str, Any] | Refusal]]:
        """Yield the results of all waiting recordings."""
        for pack in self._packs():
            results = score_pack(self._score, [recording for _, recording in pack])
            for (item, _), result in zip(pack, results, strict=True):
                self.count(result)
                yield item, result

    def _packs(self) -> Iterator[list[tuple[Item, Recording]]]:
        waiting, self._waiting, self._waiting_seconds = self._waiting, [], 0.0
        if self._by_length:
            waiting.sort(key=lambda entry: entry[1].duration_seconds)
        pack: list[tuple[Item, Recording]] = []
        total = longest = 0.0
        for item, recording in waiting:
            seconds = recording.duration_seconds
            total, longest = total + seconds, max(longest, seconds)
            if pack and (longest * (len(pack) + 1) if self._by_length else total) > self._pack_seconds:
                yield pack
                pack, total, longest = [], seconds, seconds
            pack.append((item, recording))
        if pack:
            yield pack

    def count(self, result: dict[str, Any] | Refusal) -> None:
        """Count a result, also one from another process; raise an error if the model has failed on all of the first recordings."""
        if not isinstance(result, Refusal):
            self._num_scored += 1
        elif result.code in FAILURE_CODES:
            self._failed_in_a_row += 1
            if not self._num_scored and self._failed_in_a_row >= MAX_FAILURES_AT_FIRST:
                raise RuntimeError(f"The model fails at every recording: {result.reason}")


def score_pack(
    score: Callable[[list[Recording]], list[dict[str, Any]]], recordings: list[Recording]
) -> list[dict[str, Any] | Refusal]:
    """Score recordings together; if the model raises an error, halve the pack until the recording that causes it is found."""
    if not recordings:
        return []
    try:
        return [*score(recordings)]
    except MODEL_ERRORS as error:
        if len(recordings) > 1:
            half = math.ceil(len(recordings) / 2)
            return score_pack(score, recordings[:half]) + score_pack(score, recordings[half:])
        text = " ".join(str(error).split())[:200]
        if isinstance(error, MemoryError) or "memory" in text.lower():
            return [Refusal("failed", "out_of_memory", f"the model ran out of memory at this recording alone ({text}); cut it")]
        return [Refusal("failed", "model_failed", f"the model cannot score it ({type(error).__name__}: {text})")]
