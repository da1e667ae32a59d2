"""How long training waits for its data, and how many windows its workers bring."""

import time
from collections.abc import Callable
from typing import Any


class Waiting:
    """Counts over a training, from its second batches on: while the first ones are read, the workers start."""

    def __init__(self) -> None:
        self.num_windows = 0  # windows, or whole clips, that came
        self.seconds = 0.0  # time spent waiting for them
        self._began: float | None = None

    def watch(self, fetch: Callable[[], tuple[list[dict[str, Any]], Any]]) -> tuple[list[dict[str, Any]], Any]:
        """What `fetch` gives, counted: batches with `labels`, and something else."""
        started = time.perf_counter()
        found = fetch()
        ended = time.perf_counter()
        if self._began is None:
            self._began = ended
        else:
            self.seconds += ended - started
            self.num_windows += sum(len(batch.get("labels", ())) for batch in found[0])
        return found

    @property
    def share(self) -> float:
        """Share of the time in which training waited, 0 to 1."""
        return self.seconds / self._elapsed

    @property
    def windows_per_second(self) -> float:
        """Windows that came in a second: what the workers can bring where training waits, what it takes where it does not."""
        return self.num_windows / self._elapsed

    @property
    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._began, 1e-9) if self._began is not None else float("inf")

    def sentence(self, num_workers: int) -> str:
        """Rate and share in words, and what to do if training waits for data."""
        rate = f"{self.windows_per_second:.1f} windows a second, {self.windows_per_second / num_workers:.1f} a worker"
        remedy = "; a larger `training.dataloader_num_workers` makes it faster" if self.share > 0.1 else ""
        return f"Data: {rate}; training waited for them {self.share:.0%} of the time{remedy}."
