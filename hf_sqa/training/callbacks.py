"""Training callbacks: progress, a line per validation, a Ctrl-C that loses nothing; and the time spent waiting for data."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_sqa.training.arguments import greater_is_better

#: Metrics shown in the line after every evaluation.
SHOWN = ("loss", "utt_lcc", "utt_srcc", "utt_rmse", "sys_srcc")


class Interrupt(TrainerCallback):
    """On Ctrl-C (or SIGTERM, which clusters send), finish the step, save a checkpoint and stop. A second Ctrl-C stops at once.

    Use it as a context manager around the training.
    """

    def __init__(self, announce: Any = None) -> None:
        self.requested = False
        self.agreed: bool | None = None  # whether any process was asked to stop, when there are several
        self._announce = announce
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._before[name] = signal.signal(name, self._request)
        return self

    def __exit__(self, *error: Any) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._announce is not None:
            self._announce("Stopping after this step; a checkpoint will be saved. Press Ctrl-C again to stop at once without it.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.requested if self.agreed is None else self.agreed:
            self.requested = True
            control.should_save = True
            control.should_training_stop = True


class StopAtNaN(TrainerCallback):
    """Stops a run whose loss is NaN: it learns nothing from then on."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not math.isfinite(kwargs["logs"].get("loss", 0.0)):
            control.should_training_stop = True


class StopWithoutProgress(TrainerCallback):
    """Stops a run when none of the given metrics has improved for `patience` evaluations.

    NISQA watches `corpus_lcc` and `corpus_mapped_rmse`. The callback reads the log and keeps no state, so a run can resume.
    """

    def __init__(self, patience: int, metrics: Sequence[str]):
        self._patience = patience
        self._metrics = [f"eval_{metric.removeprefix('eval_')}" for metric in metrics]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
        missing = [metric for metric in self._metrics if evaluations and metric not in evaluations[-1]]
        if missing:
            known = ", ".join(sorted(name.removeprefix("eval_") for name in evaluations[-1] if name.startswith("eval_")))
            raise ValueError(f"Expected a metric to stop by out of {known}, got {missing[0].removeprefix('eval_')!r}.")
        goodness = [[_goodness(metric, entry[metric]) for entry in evaluations] for metric in self._metrics]
        if evaluations and len(evaluations) - 1 - max(values.index(max(values)) for values in goodness) >= self._patience:
            control.should_training_stop = True


def _goodness(metric: str, value: float) -> float:
    """Return a number that is larger for a better value of the metric; minus infinity if the value is undefined."""
    return -math.inf if math.isnan(value) else value if greater_is_better(metric) else -value


class Progress(TrainerCallback):
    """Reports training progress to a [`~hf_sqa.progress.bar`], and announces a line after every evaluation."""

    def __init__(self, update: Callable[..., None], announce: Callable[[str], object]) -> None:
        self._update, self._announce = update, announce

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps, f"epoch {state.epoch or 0:.1f}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        metrics = kwargs["metrics"]
        shown = [
            f"{name} {metrics[key]:.4g}" for name in SHOWN if (key := f"eval_{name}") in metrics and not math.isnan(metrics[key])
        ]
        trained = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        if trained is not None:
            shown.insert(0, f"training loss {trained:.4g}")
        self._announce(f"epoch {state.epoch or 0:.4g}, step {state.global_step}: {', '.join(shown)}")


class Waiting:
    """Measures how long training waits for data, and how many windows arrive.

    The first batches do not count, because the workers are still starting.
    """

    def __init__(self) -> None:
        self.num_windows = 0  # windows, or whole clips, that arrived
        self.seconds = 0.0  # time spent waiting for them
        self._began: float | None = None

    def watch(self, fetch: Callable[[], tuple[list[dict[str, Any]], Any]]) -> tuple[list[dict[str, Any]], Any]:
        """Return what `fetch` returns (batches with `labels`, and something else), and count it."""
        started = time.perf_counter()
        found = fetch()
        ended = time.perf_counter()
        if self._began is None:
            self._began = ended
        else:
            self.seconds += ended - started
            self.num_windows += sum(len(batch.get("labels", ())) for batch in found[0])
        return found

    def sentence(self, num_workers: int) -> str:
        """Return in words how many windows arrived per second, which share of the time training waited, and what to do about it.

        The rate is that of the workers if training waits for them, else that of training.
        """
        elapsed = max(time.perf_counter() - self._began, 1e-9) if self._began is not None else math.inf
        rate, share = self.num_windows / elapsed, self.seconds / elapsed
        remedy = "; a larger `training.dataloader_num_workers` makes it faster" if share > 0.1 else ""
        return (
            f"Data: {rate:.1f} windows a second, {rate / num_workers:.1f} a worker; training waited for them {share:.0%} of the "
            f"time{remedy}."
        )
