"""Which rows share a batch: the global batches are the same whatever the number of processes, and divided among them.

One process with batches of 8 and two with batches of 4 see the same rows in the same steps. The order of an epoch follows from the
seed and the number of the epoch alone, so a resumed run continues with the right batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

#: Global batches that are drawn together and sorted by length. More would save padding, but repeat the same batches every epoch.
BATCHES_PER_BUCKET = 50


class Draw(NamedTuple):
    """A row drawn in an epoch."""

    row: int  # its number in the data set
    epoch: int = 0  # chance depends on it: where a recording is cut, how it is degraded
    # whether it only keeps a process busy that has no row in the last step. Its example has no label, and `-1` as its row
    is_filler: bool = False


class EpochBatches(torch.utils.data.Sampler):
    """Batches of [`Draw`] for one process, `batch_size` rows each.

    Args:
        seconds (`np.ndarray` of shape `(num_rows,)`, *optional*): Durations; rows of similar duration then share a batch.
        groups (sequence, *optional*): A value for each row; only rows of the same value share a batch.
        shuffle (`bool`, *optional*, defaults to `True`): Whether every epoch has an order of its own.
        drop_last (`bool`, *optional*, defaults to `False`): Whether to leave out a last batch that is not full.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int = 0,
        seconds: np.ndarray | None = None,
        groups: Sequence[Any] | None = None,
        shuffle: bool = True,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        self.num_rows, self.batch_size, self.seed, self.shuffle, self.drop_last = num_rows, batch_size, seed, shuffle, drop_last
        self.seconds, self.process_index, self.num_processes = seconds, process_index, num_processes
        self._codes = None if groups is None else np.unique(np.array(list(map(str, groups))), return_inverse=True)[1]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.global_batches(0))

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        for rows in self.global_batches(epoch):
            parts = np.array_split(rows, self.num_processes)
            mine = [Draw(int(row), epoch) for row in parts[self.process_index]]
            # A process without rows in the last step takes part in it all the same.
            yield mine or [Draw(int(rows[0]), epoch, is_filler=True)]

    def global_batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of all processes, batch by batch."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.num_rows) if self.shuffle else np.arange(self.num_rows)
        size = self.batch_size * self.num_processes
        if self._codes is not None:
            batches = [
                rows[start : start + size]
                for code in np.unique(self._codes)
                for rows in [order[self._codes[order] == code]]
                for start in range(0, len(rows), size)
            ]
        elif self.seconds is not None:
            batches = []
            for start in range(0, self.num_rows, BATCHES_PER_BUCKET * size):
                bucket = order[start : start + BATCHES_PER_BUCKET * size]
                bucket = bucket[np.argsort(self.seconds[bucket], kind="stable")]
                batches += [bucket[first : first + size] for first in range(0, len(bucket), size)]
        else:
            batches = [order[start : start + size] for start in range(0, self.num_rows, size)]
        if self.drop_last:
            batches = [rows for rows in batches if len(rows) == size]
        if self.shuffle and (self._codes is not None or self.seconds is not None):
            batches = [batches[index] for index in rng.permutation(len(batches))]
        return batches
