"""Uses all cores for small models: several processes decode and score, each with the model and one thread.

With a small model most of the work is decoding, checks and the spectrum, which torch's threads do not share. A large model uses
all threads of one process, while another decodes ahead. Where this process cannot be forked, starting others takes seconds, so
it begins alone.
"""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hf_sqa.audio import Recording
from hf_sqa.isolation import Unusable, may_fork
from hf_sqa.scoring.decoding import Decoder, Decoding
from hf_sqa.scoring.items import Item, Refusal
from hf_sqa.scoring.packing import score_pack

#: Largest size of the weights, in bytes, of a model that several processes score with: all students, NISQA and DNSMOS.
SMALL_BYTES = 8_000_000
#: This process scores alone for `ALONE_SECONDS`, and to the end if at most `LEFT_SECONDS` are left: twice the start of others.
ALONE_SECONDS, LEFT_SECONDS = 3.0, 6.0


@dataclass(frozen=True)
class Cores:
    """How many processes score with a pipeline."""

    num_processes: int
    at_once: bool = False  # Whether they are started before the first recording is scored
    one_thread: bool = False  # Whether this process also uses one thread, so that scores do not depend on the process


def cores(scorer: Any, asked: int | None = None, is_held_back: bool = False) -> Cores:
    """Return `asked` processes; by default one per torch thread for a small model on a CPU unless `is_held_back`, else one."""
    import torch

    if asked is not None and asked > 1:
        if scorer.device.type != "cpu":
            raise ValueError(
                f"Expected one process for the device {str(scorer.device)!r}, got num_processes={asked}: several share a CPU only. "
                "Leave it out, and let num_workers decode."
            )
        if os.name == "nt":
            raise ValueError(f"Scoring in processes is not available on Windows, got num_processes={asked}; leave it out.")
        return Cores(asked, at_once=True, one_thread=True)
    if not is_small(scorer) or (asked is None and is_held_back):
        return Cores(1)
    return Cores(asked or (1 if os.name == "nt" else torch.get_num_threads()), one_thread=True)


def is_small(scorer: Any) -> bool:
    """Whether a pipeline runs on a CPU, with so few weights that several threads would not make it faster."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in scorer.model.parameters())
    return scorer.device.type == "cpu" and 0 < weights <= SMALL_BYTES  # 0 for a graph of onnxruntime


@contextlib.contextmanager
def one_thread(is_wanted: bool = True) -> Iterator[None]:
    """Limit torch to one thread, so that this process computes bit for bit the scores that its worker processes compute."""
    import torch

    before = torch.get_num_threads()
    if is_wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if is_wanted:
            torch.set_num_threads(before)


class Scoring:
    """A pipeline and its options, for this process and those that it starts. The pipeline must not be changed afterwards."""

    def __init__(self, scorer: Any, **options: Any):
        # Checked here, once, because an interval makes this read all weights.
        _, forward, postprocess = scorer._sanitize_parameters(**options)
        self._scorer, self._file = scorer, ""
        self._forward = {**scorer._forward_params, **forward}
        self._postprocess = {**scorer._postprocess_params, **postprocess}

    def together(self, recordings: Sequence[Recording]) -> list[dict[str, Any]]:
        """Score recordings in one batch."""
        items = self._scorer.forward([{"recording": recording, "error": None} for recording in recordings], **self._forward)
        return [self._scorer.postprocess(item, **self._postprocess) for item in items]

    @contextlib.contextmanager
    def shared(self) -> Iterator[Self]:
        """Context for starting processes: a fork has the pipeline already, a fresh process reads it from a temporary file."""
        with tempfile.TemporaryDirectory(prefix="hf-sqa-") as folder:
            self._file = str(Path(folder, "pipeline.pt"))
            yield self

    def __getstate__(self) -> dict[str, Any]:
        import torch

        if not os.path.exists(self._file):
            try:
                torch.save(self._scorer, self._file)
            except Exception as error:  # whatever a class raises that cannot be pickled
                message = f"The model cannot be sent to other processes ({error}); score with num_processes=1."
                raise ValueError(message) from error
        return {**self.__dict__, "_scorer": None}

    def __call__(self, recording: Recording) -> Any:
        """Score a recording in a process that was started for it."""
        if self._scorer is None:
            import torch

            try:
                self._scorer = torch.load(self._file, weights_only=False)  # written by the process that started this one
            except Exception as error:  # whatever a class raises that cannot be unpickled
                message = f"A process cannot load the model ({type(error).__name__}: {error}); score with num_processes=1."
                return Unusable(message)
        return score_pack(self.together, [recording])[0]


def alone_at_first(
    items: Iterable[Any],
    num_items: int | None,
    here: Callable[[Iterable[Any]], Iterator[Any]],
    there: Callable[[Iterable[Any]], Iterator[Any]],
) -> Iterator[Any]:
    """Yield the results of `here` for the first items, and of `there` for the rest if enough are left to be worth starting it."""
    waiting, began, num_done, has_more = iter(items), time.monotonic(), 0, False

    def first() -> Iterator[Any]:
        nonlocal has_more
        for item in waiting:
            yield item
            seconds = time.monotonic() - began
            left = float("inf") if num_items is None else seconds * (num_items / max(num_done, 1) - 1)
            if seconds > ALONE_SECONDS and left > LEFT_SECONDS:
                has_more = True
                return

    for result in here(first()):
        num_done += 1
        yield result
    if has_more:
        yield from there(waiting)


class ScoringDecoder(Decoder):
    """Decodes items, and scores them too if several processes do; most recordings are then replaced by their results.

    `num_workers` processes decode while this process scores alone; `num_items` is the largest possible number of items, if known.
    """

    def __init__(self, score: Scoring, decoding: Decoding, cores: Cores, num_workers: int, num_items: int | None = None):
        super().__init__(decoding, num_workers)
        self._score, self._decoding, self._cores, self._num_items = score, decoding, cores, num_items
        self._there: Decoder | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._held.enter_context(one_thread(self._cores.one_thread))
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._held.close()

    @property
    def process_ids(self) -> list[int]:
        return super().process_ids + (self._there.process_ids if self._there else [])

    def decode(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        if self._cores.num_processes == 1:
            return super().decode(items)
        if self._cores.at_once or may_fork():
            return self._scored(items)
        return alone_at_first(items, self._num_items, super().decode, self._scored)

    def _scored(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        if self._there is None:
            super().__exit__()  # ends the workers that decoded ahead for this process
            score = self._held.enter_context(self._score.shared())
            self._there = self._held.enter_context(Decoder(self._decoding, self._cores.num_processes, score))
        yield from self._there.decode(items)


def scored(
    scorer: Any,
    recordings: Sequence[Any],
    *,
    num_processes: int | None = None,
    num_workers: int | None = None,
    batch_size: int = 1,
    channel: str | int = "mean",
    **options: Any,
) -> Generator[dict[str, Any], None, None]:
    """Yield the result of a pipeline for every recording, in order: `status`, `code` and `reason` if it cannot be scored.

    For the numbers of processes see [`Settings`]; if several processes score, a `batch_size` above 1 has no effect. The other
    options are those of the pipeline.
    """
    used = cores(scorer, num_processes, num_workers == 0 or batch_size > 1 or len(recordings) < 2)
    if num_workers is None:
        num_workers = 0 if os.name == "nt" else 1  # a decoder that crashes must not take the scores along
    score = Scoring(scorer, **options, on_error="row", return_details=True)
    # As in a call of the pipeline, a failed download is not tried again: somebody is waiting.
    audio_of = [{"path": audio} if isinstance(audio, str) else audio for audio in recordings]
    items = (Item(number, str(number), "<recording>", audio) for number, audio in enumerate(audio_of))
    with ScoringDecoder(score, Decoding(scorer.model.config.sampling_rate, channel), used, num_workers, len(audio_of)) as decoder:
        decoded = decoder.decode(items)
        while batch := list(itertools.islice(decoded, batch_size)):
            results = iter(score_pack(score.together, [result for _, result in batch if isinstance(result, Recording)]))
            for _, result in batch:
                result = next(results) if isinstance(result, Recording) else result
                yield asdict(result) if isinstance(result, Refusal) else result
