"""`pipeline("audio-quality")`: scores audio in any form; no score is invented, no recording is lost."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import logging

from hf_sqa.audio import AudioError, Recording, load_or_refuse
from hf_sqa.blocks.faults import FaultFinder
from hf_sqa.blocks.local_quality import LocalScore, LocalScorer
from hf_sqa.blocks.result_rows import RecordingScores, findings, result_row
from hf_sqa.blocks.score_intervals import score_columns
from hf_sqa.blocks.timeline import Fault
from hf_sqa.choices import did_you_mean
from hf_sqa.isolation import Isolated, Lost
from hf_sqa.modeling import AudioQualityPreTrainedModel, model_identity

logger = logging.get_logger(__name__)


class AudioQualityPipeline(Pipeline):
    """Scores recordings with any model of [`AutoModelForAudioQuality`].

    ```python
    >>> import hf_sqa
    >>> from transformers import pipeline

    >>> score = pipeline("audio-quality")
    >>> score("call.wav")
    {'mos': 3.912345}
    ```

    Called with one recording, it returns a dict; with a list, a tuple or a `datasets` column, a list of dicts; with a generator, a
    `Dataset` or a `KeyDataset`, an iterator that scores as it is consumed. A recording may be a path, a URL, encoded bytes, a
    binary file object, an array or tensor (with `sampling_rate`), a dict with `array` or `raw` and `sampling_rate`, a dict with
    `path` or `bytes`, or an AudioDecoder of `datasets`. If the checkpoint has a `score_mapping`, it is applied to the scores.

    Args (at construction or call):
        sampling_rate (`int`, *optional*): Sampling rate of bare arrays and tensors, in Hz.
        channel (`str` or `int`, *optional*, defaults to `"mean"`): How several channels become one: their mean, or one by number.
        mode (`str`, *optional*): Way of scoring, one of the model's `modes`; its first, `"published"`, if not given.
        hop_seconds (`float`, *optional*): Distance between the windows that a long recording is cut into; the published one if
            not given. A larger hop is faster and differs more from the published score.
        interval (`float`, *optional*): Adds `<score>_low` and `<score>_high`, between which the listeners' mean rating lies for
            this share of recordings like those that the checkpoint was calibrated on, `0.9` for nine of ten. Only for
            checkpoints with a calibration, and for the scores that it covers.
        return_segments (`bool`, *optional*, defaults to `False`): Adds `segments`: the score of every window with `start` and `end`
            in seconds.
        return_timeline (`bool`, *optional*, defaults to `False`): Adds `timeline`, the quality of every half second in which
            somebody speaks (`start`, `end` and the scores); `worst`, the stretch around its lowest point; and `faults`, stretches
            that stand out from the rest, with their `kind`. `docs/scoring.md` describes the method and its cost.
        return_details (`bool`, *optional*, defaults to `False`): Adds duration, rate, level, `warnings`, and the model's identity.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` raises [`AudioError`] for a recording that cannot be scored;
            `"row"` returns `None` for its scores with `status`, `code` and `reason`, and adds these keys to every result. No value
            of a row is NaN or infinite, so rows are valid JSON.
        batch_size (`int`, *optional*, defaults to 1): Recordings passed to the model together. It never changes a score.
        num_workers (`int`, *optional*, defaults to 0): Processes that decode and resample. With one or more, a recording on which
            the decoder dies or hangs for five minutes is an error for that recording only; with none, it stops this process too.
            On Windows this process decodes.
    """

    model: AudioQualityPreTrainedModel
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    #: Adds the code of the family to a folder: [`hf_sqa.hub.bundle.add_code`], set by `import hf_sqa`, as `hub` is a higher layer.
    add_code: ClassVar[Callable[[str | Path], Any] | None] = None

    def save_pretrained(self, save_directory: str | Path, *, with_code: bool = False, **kwargs: Any) -> None:
        """Save model and feature extractor for `hf_sqa.pipeline`, `transformers.pipeline` and `from_pretrained`.

        Unlike transformers, this does not write the task, with names that only this process knows, into folder and configuration.

        Args:
            save_directory (`str` or `Path`): Folder to write.
            with_code (`bool`, *optional*, defaults to `False`): Add the code, so that the folder works without hf_sqa, given
                `trust_remote_code=True`.
            **kwargs: Options of the model's `save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.feature_extractor.save_pretrained(save_directory)
        if with_code:
            if type(self).add_code is None:
                raise ValueError(
                    "Expected `import hf_sqa` before `with_code=True`: only the package has the code to add. `pip install hf-sqa`, "
                    "or copy the `.py` files of the repository, and its config.json, beside the weights."
                )
            type(self).add_code(save_directory)

    def push_to_hub(self, repo_id: str, *, commit_message: str | None = None, **options: Any) -> Any:
        """Publish model and feature extractor; see the model's `push_to_hub`."""
        if type(self.model).publish is None:  # the code of a repository, run without hf_sqa
            return super().push_to_hub(repo_id, commit_message=commit_message, **options)
        return self.model.push_to_hub(repo_id, commit_message=commit_message, feature_extractor=self.feature_extractor, **options)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        steps: dict[str, tuple[str, ...]] = {
            "preprocess": ("sampling_rate", "channel"),
            "forward": ("mode", "hop_seconds", "return_timeline"),
            "postprocess": ("return_segments", "return_timeline", "return_details", "on_error", "interval"),
        }
        known = list(dict.fromkeys(option for options in steps.values() for option in options))
        for option in kwargs:
            if option not in known:
                expected = f"; expected one of {', '.join(known)}."
                hint = did_you_mean(option, [*known, "batch_size", "num_workers"], otherwise=expected)
                raise TypeError(f"Unknown option {option!r} for the audio-quality pipeline{hint}")
        if kwargs.get("on_error", "raise") not in {"raise", "row"}:
            raise ValueError(f"Expected `on_error` to be 'raise' or 'row', got {kwargs['on_error']!r}.")
        if not {"mode", "hop_seconds"}.isdisjoint(kwargs):
            mode = kwargs.get("mode")
            self.model.check_scoring_options(self.model.modes[0] if mode is None else mode, kwargs.get("hop_seconds"))
        checked = self.__dict__.setdefault("_checked_intervals", set())
        if kwargs.get("interval") is not None and kwargs["interval"] not in checked:  # takes seconds for a large model
            self.model.check_interval(kwargs["interval"])
            checked.add(kwargs["interval"])
        parameters = [{option: kwargs[option] for option in options if option in kwargs} for options in steps.values()]
        return parameters[0], parameters[1], parameters[2]

    def __call__(self, inputs: Any, *, num_workers: int | None = None, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Score one recording or many; the class describes inputs and results."""
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        preprocess, forward, postprocess = (
            {**first, **second} for first, second in zip(own, self._sanitize_parameters(**kwargs), strict=True)
        )
        if _is_one_recording(inputs):
            return self.run_single(inputs, preprocess, forward, postprocess)
        num_workers = num_workers if num_workers is not None else self._num_workers or 0
        batch_size = batch_size if batch_size is not None else self._batch_size or 1
        length = len(inputs) if hasattr(inputs, "__len__") else None
        audio = iter(inputs)
        if length is not None and hasattr(inputs, "__getitem__"):
            audio = (inputs[index] for index in range(length))
        items = self.preprocessed(audio, num_workers, preprocess)
        rows = ScoredRows(self._rows(items, batch_size, forward, postprocess), length)
        returns_list = isinstance(inputs, (list, tuple)) or type(inputs).__name__ == "Column"
        return list(rows) if returns_list else rows

    def run_single(self, inputs: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict) -> dict[str, Any]:
        (item,) = self.forward([self.preprocess(inputs, **preprocess_params)], **forward_params)
        if not postprocess_params.get("return_details"):
            scores = item["scores"].scores if item["error"] is None else None
            for finding in findings(item["recording"], scores, self.model.config):
                logger.warning(f"{item['recording'].source}: {finding.message} [{finding.code}]; the score is doubtful.")
        return self.postprocess(item, **postprocess_params)

    def preprocessed(self, inputs: Iterable[Any], num_workers: int, options: dict) -> Iterator[dict[str, Any]]:
        """Yield the result of `preprocess` for every recording, in order; in separate processes if `num_workers` is not 0."""
        if not num_workers or os.name == "nt":
            yield from (self.preprocess(audio, **options) for audio in inputs)
            return
        names = {"sampling_rate": "input_sampling_rate"}
        options = {names.get(option, option): value for option, value in options.items()}
        load = partial(load_or_refuse, sampling_rate=self.model.config.sampling_rate, **options)
        with Isolated(load, num_workers) as isolated:
            for (audio,), result in isolated.map((audio,) for audio in inputs):
                if isinstance(result, Lost):
                    name = str(audio) if isinstance(audio, (str, Path)) else "<recording>"
                    result = AudioError(name, result.code, result.message)
                yield _item(result)

    def _rows(self, items: Iterator[dict[str, Any]], batch_size: int, forward: dict, postprocess: dict) -> Iterator[dict[str, Any]]:
        while batch := list(itertools.islice(items, batch_size)):
            for scored in self.forward(batch, **forward):
                yield self.postprocess(scored, **postprocess)

    def preprocess(self, audio: Any, sampling_rate: int | None = None, channel: str | int = "mean") -> dict[str, Any]:
        """Read and check one recording; an error is returned in the item, so that it does not stop the others."""
        options = {"sampling_rate": self.model.config.sampling_rate, "channel": channel, "input_sampling_rate": sampling_rate}
        return _item(load_or_refuse((audio,), **options))

    def _forward(
        self, items: list[dict[str, Any]], mode: str | None = None, hop_seconds: float | None = None, return_timeline: bool = False
    ) -> list[dict[str, Any]]:
        mode = mode or self.model.modes[0]
        good = [item for item in items if item["error"] is None]
        with self.model.keep_frames() if return_timeline else nullcontext({}) as kept:
            scores = self._score([item["recording"] for item in good], mode, hop_seconds)
        for item, scored in zip(good, scores, strict=True):
            item["mode"], item["hop_seconds"] = mode, hop_seconds
            if isinstance(scored, AudioError):
                item["error"] = scored
            else:
                item["scores"] = scored.mapped(self.model.config)
                if return_timeline:
                    scorer = self.model.local_scorer(self.feature_extractor, sampling_rate=item["recording"].sampling_rate)
                    if mode == self.model.modes[0]:
                        frames = kept.get(id(item["recording"]))
                        scorer.give(scored.segment_starts, scored.segment_scores, frames)
                    points, item["faults"] = _local_scores(item["recording"], scorer)
                    item["points"] = self.mapped_points(points)
        return items

    def mapped_points(self, points: list[LocalScore]) -> list[LocalScore]:
        """Apply the `score_mapping` of the checkpoint, if it has one, to local scores."""
        config = self.model.config
        return [
            point if point.scores is None else replace(point, scores=RecordingScores(point.scores).mapped(config).scores)
            for point in points
        ]

    def _score(self, recordings: list[Recording], mode: str, hop_seconds: float | None) -> Sequence[RecordingScores | AudioError]:
        """Score recordings together; if one of them stops the batch, score each alone so that the others keep their scores."""
        if not recordings:
            return []
        try:
            return self.model.score_recordings(recordings, self.feature_extractor, mode=mode, hop_seconds=hop_seconds)
        except AudioError as error:
            if len(recordings) == 1:
                return [error]
            return [self._score([recording], mode, hop_seconds)[0] for recording in recordings]

    def postprocess(self, item: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Make the row of a recording; see [`~hf_sqa.blocks.result_rows.result_row`]."""
        row = result_row(item, self.model.config, **options)
        return row | {"model": self.identity(item.get("mode"), item.get("hop_seconds"))} if options.get("return_details") else row

    def columns(self, interval: float | None = None) -> list[str]:
        """Return the names of the scores in a row, and of the ends of their intervals."""
        return score_columns(self.model.config.score_names, self.model.config.score_intervals, interval)

    @property
    def local_method(self) -> str:
        """Short description of how `return_timeline` finds the local quality."""
        return self.model.local_scorer(self.feature_extractor).method

    @property
    def local_is_cheap(self) -> bool:
        """Whether `return_timeline` adds little to the time that scoring takes."""
        return self.model.local_scorer(self.feature_extractor).is_cheap

    def identity(self, mode: str | None = None, hop_seconds: float | None = None) -> dict[str, str | None]:
        """Identity of the scores that this pipeline computes; see [`model_identity`]."""
        key = (mode or self.model.modes[0], hop_seconds)
        cache = self.__dict__.setdefault("_identities", {})
        if key not in cache:
            cache[key] = model_identity(self.model, self.feature_extractor, mode=key[0], hop_seconds=hop_seconds)
        return cache[key]


class ScoredRows(Iterator[dict[str, Any]]):
    """Iterator over results whose length is known if that of the input is."""

    def __init__(self, rows: Iterator[dict[str, Any]], length: int | None):
        self._rows, self._length = rows, length

    def __next__(self) -> dict[str, Any]:
        return next(self._rows)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("The input is a generator: how many results there will be is not known.")
        return self._length


def _item(loaded: Recording | AudioError) -> dict[str, Any]:
    is_error = isinstance(loaded, AudioError)
    return {"recording": None if is_error else loaded, "error": loaded if is_error else None}


def _local_scores(recording: Recording, scorer: LocalScorer) -> tuple[list[LocalScore], list[Fault]]:
    """Return local quality and faults of a recording at the scorer's rate, read block by block."""
    finder, points, blocks = FaultFinder(scorer.sampling_rate), [], recording.blocks()
    block = next(blocks, None)
    while block is not None:
        finder.feed(block)
        following = next(blocks, None)
        points += scorer.feed(block, last=following is None)
        block = following
    return points, finder.close()


def _is_one_recording(inputs: Any) -> bool:
    if isinstance(inputs, (str, Path, bytes, bytearray, memoryview, Mapping, np.ndarray, torch.Tensor)):
        return True
    if hasattr(inputs, "get_all_samples") or hasattr(inputs, "read"):
        return True
    return not isinstance(inputs, Iterable) and not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))
