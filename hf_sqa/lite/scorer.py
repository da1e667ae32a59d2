"""The audio-quality pipeline for a graph of `hf-sqa export onnx`: checks, windows, means and rows come from shared functions."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_sqa.audio import AudioError, Recording, load_recording
from hf_sqa.audio.recording import window_starts
from hf_sqa.blocks.local_quality import LocalScore
from hf_sqa.blocks.local_steps import StepCut, StepScorer
from hf_sqa.blocks.result_rows import RecordingScores, result_row
from hf_sqa.blocks.score_intervals import check_intervals, score_columns
from hf_sqa.checkpoint_files import graph_files
from hf_sqa.extras import import_extra

FAMILY = "distilled_sqa"
#: Key in the graph's metadata; its value is the configuration's options at the time of the export, as JSON.
EXPORTED_OPTIONS = "hf_sqa_options"
#: Options of config.json that scoring needs.
NEEDED = ("window_samples", "hop_samples", "sampling_rate", "id2label", "score_min", "score_max")
DIGEST_CHARACTERS = 16
#: File that `hf-sqa export onnx --page` writes beside the graph.
FACTS_FILE = "page.json"
ONE_RECORDING = (str, Path, bytes, bytearray, memoryview, Mapping, np.ndarray)


class LitePipeline:
    """Scores recordings with the graph of a DistilledSQA, as `hf_sqa.pipeline` with `backend="onnx"` does.

    Args:
        model (`str` or `Path`): Folder with `config.json` and a graph (`model.onnx`, `onnx/model.onnx`,
            `onnx/model_quantized.onnx`), or the graph itself.
        num_threads (`int`, *optional*): Threads of onnxruntime; one per core if not given.
        **options: Options for every call.

    Raises:
        OSError: If there is no graph or configuration, onnxruntime is not installed, or it cannot run the graph.
        ValueError: If the graph is of another family, or was exported with another configuration than the one beside it.
    """

    def __init__(self, model: str | Path, *, num_threads: int | None = None, **options: Any):
        self._graph = _graph_of(Path(model))
        in_repository = self._graph.parent.name == "onnx" and not (self._graph.parent / "config.json").is_file()
        self.folder = self._graph.parent.parent if in_repository else self._graph.parent
        self.config = _read_config(self.folder)
        content, self._num_threads = self._graph.read_bytes(), num_threads
        self._session = _session(self._graph, num_threads, content)
        self._local_facts = _local_facts(self._graph.parent)
        self._local: Any = None
        self.score_names = self.config.score_names
        self._check_form()
        # Equal to `weights_digest` of the same graph in the pipeline with torch.
        digest = hashlib.sha256(f"graph torch.uint8 {(len(content),)}\n".encode() + content)
        self.identity = {"id": self.folder.resolve().name, "revision": None, "weights": digest.hexdigest()[:DIGEST_CHARACTERS]}
        self._options = options
        self._checked(**options)

    def columns(self, interval: float | None = None) -> list[str]:
        """Return the names of the scores in a row, and of the ends of their intervals, which the checkpoint must have."""
        self._checked(interval=interval)
        return score_columns(self.score_names, self.config.score_intervals, interval)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Score one recording or many.

        Args:
            inputs: Anything that [`hf_sqa.load_recording`] accepts, or several of these.
            sampling_rate (`int`, *optional*): Sampling rate of bare arrays, in Hz.
            channel (`str` or `int`, *optional*, defaults to `"mean"`): How several channels become one.
            hop_seconds (`float`, *optional*): Distance between windows of long recordings; that of the configuration if not given.
            interval, return_segments, return_timeline, return_details, on_error (*optional*): As in
                [`~hf_sqa.AudioQualityPipeline`]; a timeline needs the files that `hf-sqa export onnx --page` adds to the graph.
                Its `faults` come from the curve alone: the network that names them is not run.

        Returns:
            `dict`, a list of them for a list or tuple, or an iterator of them for other iterables.

        Raises:
            AudioError: If a recording cannot be scored, unless `on_error="row"`.
            TypeError: If an option is unknown.
            ValueError: If the checkpoint has no such interval, or there is no graph for a timeline.
        """
        options = self._checked(**{**self._options, **options})
        if isinstance(inputs, ONE_RECORDING) or hasattr(inputs, "read") or not isinstance(inputs, Iterable):
            return self._row(inputs, **options)
        rows: Iterator[dict[str, Any]] = (self._row(audio, **options) for audio in inputs)
        return list(rows) if isinstance(inputs, (list, tuple)) else rows

    def score_windows(self, windows: np.ndarray) -> np.ndarray:
        """Return scores `(num_windows, num_labels)` of windows `(num_windows, num_samples)`; short ones are padded with zeros."""
        missing = self.config.window_samples - windows.shape[1]
        padded = np.pad(np.asarray(windows, np.float32), ((0, 0), (0, missing)))
        return self._session.run(["logits"], {"input_values": padded})[0]

    def _row(self, audio: Any, *, sampling_rate: int | None, channel: str | int, hop_seconds: float | None, **options: Any) -> Any:
        config = self.config
        item: dict[str, Any] = {"recording": None, "error": None}
        try:
            item["recording"] = recording = load_recording(
                audio, sampling_rate=config.sampling_rate, channel=channel, input_sampling_rate=sampling_rate
            )
            hop_samples = config.hop_samples if hop_seconds is None else hop_seconds * config.sampling_rate
            starts = window_starts(recording.num_samples, config.window_samples, hop_samples)
            ends = np.minimum(starts + config.window_samples, recording.num_samples)
            windows = recording.windows(starts.tolist(), config.window_samples)
            scores = np.concatenate([self.score_windows(window[None]) for window in windows])
            scored = RecordingScores(scores.mean(axis=0, dtype=np.float64), starts, ends, scores).mapped(config)
            item |= {"scores": scored, "mode": "published", "hop_seconds": hop_seconds, "faults": []}
            if options["return_timeline"]:
                item["points"] = self._local_scores(recording, scored)
        except AudioError as error:
            item["error"] = error
        row = result_row(item, config, **options)
        return row | {"model": self.identity} if options["return_details"] else row

    @property
    def local_is_cheap(self) -> bool:
        """Whether `return_timeline` is possible; if so, it adds little to the time that scoring takes."""
        return self._local_facts is not None

    def _local_scores(self, recording: Recording, scored: RecordingScores) -> list[LocalScore]:
        assert self._local_facts is not None
        if self._local is None:
            self._local = _session(self._graph.parent / self._local_facts["head"]["graph"], self._num_threads)
        scorer = _GraphScorer(self._local, self.score_windows, self._local_facts, recording.sampling_rate)
        scorer.give(scored.segment_starts.tolist(), scored.segment_scores)
        points = [point for block in recording.blocks() for point in scorer.feed(block)]
        return points + scorer.close()

    def _checked(self, **options: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {"sampling_rate": None, "channel": "mean", "hop_seconds": None, "interval": None}
        defaults |= dict.fromkeys(("return_segments", "return_timeline", "return_details"), False) | {"on_error": "raise"}
        if unknown := sorted(set(options) - set(defaults)):
            raise TypeError(f"Unknown option {unknown[0]!r} for the pipeline without torch; expected one of {', '.join(defaults)}.")
        options = {**defaults, **options}
        if options["on_error"] not in {"raise", "row"}:
            raise ValueError(f"Expected `on_error` to be 'raise' or 'row', got {options['on_error']!r}.")
        hop = options["hop_seconds"]
        if hop is not None and hop < 0.05:
            raise ValueError(f"Expected `hop_seconds` of 0.05 or more, got {hop!r}.")
        if options["interval"] is not None:
            check_intervals(self.config.score_intervals, options["interval"])
        if options["return_timeline"] and self._local_facts is None:
            raise ValueError(
                f"Expected page.json and local.onnx beside {str(self._graph)!r} for a timeline, got none: `hf-sqa export onnx "
                "--page` writes them for a checkpoint with a head for local quality (distill-mos-v7, distilled-sqa-xs to -m)."
            )
        return options

    def _check_form(self) -> None:
        exported = json.loads(self._session.get_modelmeta().custom_metadata_map.get(EXPORTED_OPTIONS, "{}"))
        differing = [name for name, value in exported.items() if getattr(self.config, name, None) != value]
        num_scores = self.score_windows(np.zeros((1, 1), np.float32)).shape[-1]
        if differing or num_scores != len(self.score_names):
            what = ", ".join(differing) or f"{len(self.score_names)} scores for a graph of {num_scores}"
            raise ValueError(
                f"Expected config.json in {str(self.folder)!r} to be the one that {self._graph.name} was exported with, got "
                f"another ({what}): its scores would be wrong. Export the model again."
            )


pipeline = LitePipeline  # named as `hf_sqa.pipeline`, which it replaces


class _GraphScorer(StepScorer):
    """Local quality from the graph of a head: a session of `local.onnx`, `local` of `page.json`, and a scorer of windows."""

    def __init__(self, session: Any, score_windows: Callable[[np.ndarray], np.ndarray], facts: dict[str, Any], sampling_rate: int):
        super().__init__(StepCut.of_settings(facts["head"]), sampling_rate, facts["hop_seconds"])
        self._session, self._score_windows = session, score_windows

    def score_steps(self, samples: np.ndarray) -> np.ndarray:
        return self._session.run(["steps"], {"input_values": samples[None]})[0].T

    def score_window(self, samples: np.ndarray) -> float:
        return float(self._score_windows(samples[None])[0, 0])


def _local_facts(folder: Path) -> dict[str, Any] | None:
    """Return `local` of `page.json` if it names a graph for local quality that exists; else `None`."""
    file = folder / FACTS_FILE
    facts = json.loads(file.read_text(encoding="utf-8")).get("local", {}) if file.is_file() else {}
    head = facts.get("head")
    return facts if head and (folder / head["graph"]).is_file() else None


def _graph_of(model: Path) -> Path:
    if model.is_file():
        return model
    graphs = graph_files(model) if model.is_dir() else []
    if not graphs:
        raise OSError(
            f"Expected a folder with an ONNX graph, got {str(model)!r}, which has none; `hf-sqa export onnx {model} --model ...` "
            "writes one, on a machine with torch."
        )
    return model / graphs[0]


def _read_config(folder: Path) -> Any:
    """Return config.json with its keys as attributes, like the configuration of the pipeline with torch."""
    file = folder / "config.json"
    if not file.is_file():
        raise OSError(f"Expected config.json beside the graph in {str(folder)!r}, got none; copy it from where the graph is from.")
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("model_type") != FAMILY:
        raise ValueError(f"Expected the graph of a {FAMILY}, got {config.get('model_type')!r} in {str(folder)!r}.")
    if missing := [name for name in NEEDED if name not in config]:
        raise ValueError(f"Expected {', '.join(missing)} in config.json of {str(folder)!r}, got none; export the model again.")
    names = [config["id2label"][str(column)] for column in range(len(config["id2label"]))]
    return SimpleNamespace(**{"score_mapping": None, "score_intervals": None, **config, "score_names": names})


def _session(graph: Path, num_threads: int | None, content: bytes | None = None) -> Any:
    onnxruntime = import_extra("onnxruntime", f"{str(graph)!r} is an ONNX graph, which", "onnx", error=OSError)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content or graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise OSError(f"onnxruntime cannot run {str(graph)!r}: {error}") from error
