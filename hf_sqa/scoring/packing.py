"""Scores decoded recordings in packs, where the device gains from it; a neighbour in the pack never moves a score.

Which recordings share a pack depends on the recordings alone, not on when they were decoded, and no pack reaches beyond a shard: a
run that was interrupted and resumed hands the model the same packs as one that was not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hf_sqa.audio import Recording
from hf_sqa.scoring.items import Refusal

#: Seconds of audio in a pack, padding included. The caches of a CPU hold one recording.
PACK_SECONDS = {"cpu": 0.0}
PACK_SECONDS_ELSEWHERE = 960.0
#: Packs of decoded audio that are collected, then sorted by length: 64 kB for every second at 16 kHz.
PACKS_AHEAD = 4
#: If the model fails at this many recordings from the first on, the fault is in the model.
MAX_FAILURES_AT_FIRST = 20
#: What a model raises at a recording that it cannot score; out of memory is a RuntimeError of torch.
MODEL_ERRORS = (RuntimeError, ValueError, MemoryError, IndexError)
FAILURE_CODES = ("model_failed", "out_of_memory")


@dataclass(frozen=True)
class Packing:
    """How recordings are packed."""

    pack_seconds: float  # Seconds of audio in one pack, padding included; 0 scores one recording at a time
    by_length: bool  # Whether recordings of similar length go together, as models need that pad them

    @property
    def ahead_seconds(self) -> float:
        return PACKS_AHEAD * self.pack_seconds

    def packs(self, seconds: Sequence[float]) -> Iterator[list[int]]:
        """Yield the indices of each pack, every index once."""
        order = sorted(range(len(seconds)), key=lambda index: (seconds[index], index)) if self.by_length else range(len(seconds))
        pack: list[int] = []
        total = longest = 0.0
        for index in order:
            total, longest = total + seconds[index], max(longest, seconds[index])
            size = longest * (len(pack) + 1) if self.by_length else total
            if pack and size > self.pack_seconds:
                yield pack
                pack, total, longest = [], seconds[index], seconds[index]
            pack.append(index)
        if pack:
            yield pack


class PackedScorer:
    """Scores recordings in packs."""

    def __init__(self, score: Callable[[list[Recording]], list[dict[str, Any]]], packing: Packing):
        self._score, self._packing = score, packing
        self._waiting: list[tuple[int, Recording]] = []
        self._waiting_seconds = 0.0
        self._num_scored = self._failed_in_a_row = 0

    def add(self, position: int, recording: Recording) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
        """Add a recording; yields the results that are ready, in no particular order."""
        self._waiting.append((position, recording))
        self._waiting_seconds += recording.duration_seconds
        if self._waiting_seconds > self._packing.ahead_seconds:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
        """Yield the results of all waiting recordings."""
        waiting, self._waiting, self._waiting_seconds = self._waiting, [], 0.0
        for pack in self._packing.packs([recording.duration_seconds for _, recording in waiting]):
            results = score_pack(self._score, [waiting[index][1] for index in pack])
            for index, result in zip(pack, results, strict=True):
                self.count(result)
                yield waiting[index][0], result

    def count(self, result: dict[str, Any] | Refusal) -> None:
        """Count a result, also one that another process has made; an error if the model failed at every one of many so far."""
        if not isinstance(result, Refusal):
            self._num_scored += 1
        elif result.code in FAILURE_CODES:
            self._failed_in_a_row += 1
            if not self._num_scored and self._failed_in_a_row >= MAX_FAILURES_AT_FIRST:
                raise RuntimeError(f"The model fails at every recording: {result.reason}")


def score_pack(
    score: Callable[[list[Recording]], list[dict[str, Any]]], recordings: list[Recording]
) -> list[dict[str, Any] | Refusal]:
    """Score recordings together; where the model raises an error, in halves, down to the recording that is to blame."""
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
