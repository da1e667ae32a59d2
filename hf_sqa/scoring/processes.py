"""All cores for small models: processes that decode and score, each with the model and one thread.

Of a small model most of the work is decoding, checks and the spectrum, which torch's threads do not share. Large models have all
threads of one process, which decodes ahead in another. Where this process cannot be copied, starting others takes seconds, so it
begins alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from hf_sqa.audio import Recording, load_or_refuse
from hf_sqa.isolation import Isolated, Unusable, may_fork
from hf_sqa.scoring.decoding import Decoder, Decoding, load_and_score
from hf_sqa.scoring.items import Item, Refusal
from hf_sqa.scoring.packing import MODEL_ERRORS, model_failure

#: Weights in bytes up to which a model is scored by processes: that of all students, NISQA and DNSMOS.
SMALL_BYTES = 8_000_000
#: This process scores alone for so long, and to the end if no more than this is left: about twice what starting others takes.
ALONE_SECONDS, LEFT_SECONDS = 3.0, 6.0


@dataclass(frozen=True)
class Cores:
    """How many processes score with a pipeline.

    Args:
        num_processes (`int`): Processes.
        at_once (`bool`): Whether they are started before the first recording is scored.
        one_thread (`bool`): Whether this process scores by one thread too, so that it makes no difference where a score is made.
    """

    num_processes: int
    at_once: bool = False
    one_thread: bool = False


def cores(scorer: Any, asked: int | None = None, is_held_back: bool = False) -> Cores:
    """For small models on a CPU as many processes as torch would use threads, otherwise one.

    Args:
        scorer (`AudioQualityPipeline`): The pipeline.
        asked (`int`, *optional*): How many processes were asked for.
        is_held_back (`bool`, *optional*, defaults to `False`): Whether one is enough where nothing was asked for.

    Raises:
        ValueError: If more than one are asked for where there can be one only.
    """
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
    return scorer.device.type == "cpu" and 0 < weights <= SMALL_BYTES  # of a graph of onnxruntime there are none


@contextlib.contextmanager
def one_thread(is_wanted: bool = True) -> Iterator[None]:
    """Hold torch to one thread: what this process scores is then, to the bit, what its processes score."""
    import torch

    before = torch.get_num_threads()
    if is_wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if is_wanted:
            torch.set_num_threads(before)


class Shared:
    """A pipeline for processes that this one starts: copies of this process have it, those started afresh read it from a file.

    Args:
        scorer (`AudioQualityPipeline`): The pipeline. From now on it stays as it is.
        file (`str`): Written when a process is started afresh.
    """

    def __init__(self, scorer: Any, file: str):
        self._scorer, self._file = scorer, file

    def __getstate__(self) -> dict[str, Any]:
        import torch

        if not os.path.exists(self._file):
            try:
                torch.save(self._scorer, self._file)
            except Exception as error:  # whatever a class raises that does not travel
                message = f"The model cannot be sent to other processes ({error}); score with num_processes=1."
                raise ValueError(message) from error
        return {"_scorer": None, "_file": self._file}

    def get(self) -> Any:
        """The pipeline, which is read once."""
        import torch

        if self._scorer is None:
            # Written by the process that started this one, in a folder of its own.
            self._scorer = torch.load(self._file, weights_only=False)
        return self._scorer


@contextlib.contextmanager
def shared(scorer: Any) -> Iterator[Shared]:
    """A pipeline as it is now, for processes that this one starts; its file is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hf-sqa-") as folder:
        yield Shared(scorer, str(Path(folder, "pipeline.pt")))


@dataclass(frozen=True)
class ScoreHere:
    """Scores a recording in the process in which it is called.

    Args:
        shared ([`Shared`]): The pipeline.
        forward, postprocess (`dict`): Options of these two methods of it, checked.
    """

    shared: Shared
    forward: dict[str, Any]
    postprocess: dict[str, Any]

    @classmethod
    def of(cls, scorer: Any, shared: Shared, options: dict[str, Any]) -> Self:
        """For a pipeline called with some options. They are checked here, once: for an interval all weights are read."""
        _, forward, postprocess = scorer._sanitize_parameters(**options)
        return cls(shared, {**scorer._forward_params, **forward}, {**scorer._postprocess_params, **postprocess})

    def __call__(self, recording: Recording) -> Any:
        try:
            scorer = self.shared.get()
        except Exception as error:  # whatever a class raises that another process does not know
            message = f"A process cannot load the model ({type(error).__name__}: {error}); score with num_processes=1."
            return Unusable(message)
        try:
            (item,) = scorer.forward([{"recording": recording, "error": None}], **self.forward)
            return scorer.postprocess(item, **self.postprocess)
        except MODEL_ERRORS as error:
            return model_failure(error)


def alone_at_first(
    items: Iterable[Any],
    num_items: int | None,
    here: Callable[[Iterable[Any]], Iterator[Any]],
    there: Callable[[Iterable[Any]], Iterator[Any]],
) -> Iterator[Any]:
    """Yield what `here` makes of the first items, and `there` of the others if there are so many that it is worth its start.

    Args:
        items (iterable): What is scored, in order.
        num_items (`int`, *optional*): How many there are; unknown counts as many.
        here, there (callable): Take items, and yield as many results.
    """
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
    """Decodes and scores items in processes; its `decode` yields results of the pipeline in the place of most recordings.

    Args:
        scorer (`AudioQualityPipeline`): The pipeline.
        decoding ([`Decoding`]): How recordings are decoded.
        cores ([`Cores`]): How many processes score.
        num_workers (`int`): Processes that decode as long as this one scores alone.
        num_items (`int`, *optional*): How many items there are at most.
        options (`dict`): What the pipeline is called with.
    """

    def __init__(
        self,
        scorer: Any,
        decoding: Decoding,
        cores: Cores,
        *,
        num_workers: int,
        num_items: int | None,
        options: dict[str, Any],
    ):
        super().__init__(decoding, num_workers)
        self._scorer, self._decoding, self._cores = scorer, decoding, cores
        self._num_items, self._options = num_items, options
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
        """Process ids of the running workers."""
        return super().process_ids + (self._there.process_ids if self._there else [])

    def decode(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        """As of [`Decoder`], or in the place of a recording the pipeline's result."""
        if self._cores.num_processes == 1:
            return super().decode(items)
        if self._cores.at_once or may_fork():
            return self._scored(items)
        return alone_at_first(items, self._num_items, super().decode, self._scored)

    def _scored(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        if self._there is None:
            super().__exit__()  # what decoded ahead for this process
            score = ScoreHere.of(self._scorer, self._held.enter_context(shared(self._scorer)), self._options)
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
    """Yield what a pipeline says of every recording, in order; of one that cannot be scored, `status`, `code` and `reason`.

    Args:
        scorer (`AudioQualityPipeline`): The pipeline.
        recordings (sequence): Whatever it accepts.
        num_processes (`int`, *optional*): Processes that decode and score; see [`Settings`].
        num_workers (`int`, *optional*): Processes that decode for this one; 1 if not given.
        batch_size (`int`, *optional*, defaults to 1): Recordings given to the model together; where processes score, each is alone.
        channel (`str` or `int`, *optional*, defaults to `"mean"`): How several channels become one.
        **options: Options of the pipeline that are about its results.
    """
    used = cores(scorer, num_processes, num_workers == 0 or batch_size > 1 or len(recordings) < 2)
    if num_workers is None:
        num_workers = 0 if os.name == "nt" else 1  # a decoder that crashes must not take the scores along
    options |= {"on_error": "row", "return_details": True}

    def here(some: Iterable[Any]) -> Iterator[dict[str, Any]]:
        return scorer(iter(some), batch_size=batch_size, num_workers=num_workers, channel=channel, **options)

    def there(some: Iterable[Any]) -> Iterator[dict[str, Any]]:
        load = partial(load_or_refuse, sampling_rate=scorer.model.config.sampling_rate, channel=channel)
        with shared(scorer) as pipeline:
            function = partial(load_and_score, load=load, score=ScoreHere.of(scorer, pipeline, options))
            with Isolated(function, used.num_processes) as processes:
                for _, result in processes.map((audio,) for audio in some):
                    if not isinstance(result, dict | Refusal):
                        result = Refusal.of(result)
                    yield asdict(result) if isinstance(result, Refusal) else result

    with one_thread(used.one_thread):
        if used.num_processes == 1:
            yield from here(recordings)
        elif used.at_once or may_fork():
            yield from there(recordings)
        else:
            yield from alone_at_first(recordings, len(recordings), here, there)
