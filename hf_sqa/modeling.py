"""The base class of all models: checked inputs, a loss that skips missing labels, and a way to score whole recordings."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.utils import cached_file

from hf_sqa import __version__
from hf_sqa.audio import Recording
from hf_sqa.audio.recording import RESAMPLING_QUALITY
from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScorer, PieceScorer
from hf_sqa.blocks.losses import score_loss
from hf_sqa.blocks.partial_weights import refuse_partial_weights, refuse_weights_not_finite
from hf_sqa.blocks.score_intervals import check_intervals
from hf_sqa.blocks.sqa_transformer import LayerTrace
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.outputs import RecordingScores
from hf_sqa.runs import digest_of

DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class FineTuningDefaults:
    """Defaults for fine-tuning on a few hundred clips."""

    freeze: tuple[str, ...] = ()  # Names or patterns of the modules that are not trained
    learning_rate: float = 1e-4  # Peak of the learning-rate schedule
    epochs: float = 10  # Largest number of passes over the clips


class AudioQualityPreTrainedModel(PreTrainedModel):
    """Base class of all families, with every hook that training, pruning, export and scoring call; families override some of them.

    Class attributes:
        pads_safely (`bool`): Whether padding that `attention_mask` marks leaves every score unchanged. If not, only recordings of
            equal length are scored in a batch.
        modes (`tuple[str]`): Ways to score a recording that `score_recordings` supports; the first is the default.
        publish (callable, *optional*): Function that `push_to_hub` of models and trainers calls,
            [`hf_sqa.hub.publish.publish_model`]. It is in a layer above the models, so `import hf_sqa` sets it here.
    """

    config: AudioQualityConfig
    config_class = AudioQualityConfig
    main_input_name = "input_values"
    input_modalities = "audio"
    # Otherwise the Trainer assumes a loss normalised by `num_items_in_batch`, and multiplies it by the world size.
    accepts_loss_kwargs = False
    pads_safely: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...]] = ("published",)
    publish: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, but only from safetensors and only if the weights are complete.

        With `ignore_mismatched_sizes=True`, tensors that are missing or of another shape are initialised anew, and unknown tensors
        are left out, as transformers reports. Use this for training, never for scoring.

        Raises:
            OSError: If there are no weights, if they are pickled, which could run a stranger's code, or if the file is damaged.
            ValueError: If tensors are missing, unknown, of another shape or not finite; or if a newer hf_sqa wrote the checkpoint
                and its configuration has options that this version does not know.
        """
        kwargs.setdefault("use_safetensors", True)
        name = str(pretrained_model_name_or_path)
        may_be_partial = kwargs.get("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # the message below names what differs
        # Otherwise transformers asks a Space on the Hub to convert pickled weights, and waits for it.
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(f"The weights in {name!r} are damaged ({error}): get the file again.") from None
        except OSError as error:
            if (Path(name) / "adapter_config.json").is_file() and not any(Path(name).glob("model*.safetensors")):
                raise OSError(
                    f"Expected a whole checkpoint in {name!r}, got a LoRA adapter beside the configuration of its base: "
                    "`hf_sqa.AutoModelForAudioQuality.from_pretrained` and `hf_sqa.pipeline` load both."
                ) from None
            if any(Path(name).glob("pytorch_model*.bin")) or "cannot be loaded with `safetensors`" in str(error):
                raise OSError(
                    f"Expected weights in model.safetensors of {name!r}, got none: hf_sqa does not read pickled weights "
                    "(pytorch_model.bin), which can run code. Ask for a safetensors version, or convert the authors' file by "
                    "`hf-sqa convert`."
                ) from None
            if Path(name).is_dir() and not any(Path(name).glob("model*.safetensors*")):
                is_graph = any(Path(name).rglob("*.onnx"))
                raise OSError(
                    f"Expected weights in model.safetensors of {name!r}, got "
                    + (
                        "an ONNX graph, which can only score: name the checkpoint that it was exported from."
                        if is_graph
                        else "none."
                    )
                ) from None
            raise
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        report, config = model.__dict__.pop("_loading_report"), model.config
        if not may_be_partial:
            refuse_partial_weights(name, report.missing_keys, report.unexpected_keys, report.mismatched_keys)
        _refuse_integer_weights(name, model, kwargs)
        refuse_weights_not_finite(name, model.state_dict())
        _refuse_unknown_options(config)
        # The Auto classes resolve a revision once and hand the commit down; the identity of a score names it.
        config._commit_hash = getattr(kwargs.get("revision"), "resolved", None) or getattr(config, "_commit_hash", None)
        return loaded

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        # Kept for `from_pretrained`: for a model with an adapter, transformers returns a report on the adapter alone.
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self._loading_report = loading_info

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Load an adapter as in transformers, but refuse it if a tensor is missing or unknown."""
        report = super().load_adapter(peft_model_id, *args, **{"ignore_mismatched_sizes": True, **kwargs})
        name = peft_model_id or "the adapter"
        refuse_partial_weights(name, report.missing_keys, report.unexpected_keys, report.mismatched_keys)
        return report

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        """Save as in transformers; the configuration also records which version of hf_sqa wrote it."""
        self.config.hf_sqa_version = __version__
        return super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, *, commit_message: str | None = None, **options: Any) -> Any:
        """Publish as `hf-sqa push` does, with all its checks, the feature extractor, a card, and a sample with its scores.

        Args:
            repo_id (`str`): `owner/name`.
            commit_message (`str`, *optional*): Title of the commit.
            **options: Options of `hf_sqa.hub.publish.publish`: `license`, `private`, `revision`, `create_pr`, `with_code`, ...

        Returns:
            `Publication`: What was published and where.
        """
        if type(self).publish is None:  # code from a repository, run without hf_sqa, can only push plainly
            return super().push_to_hub(repo_id, commit_message=commit_message, **options)
        return type(self).publish(self, repo_id, message=commit_message, **options)

    @classmethod
    def from_encoder(
        cls, name_or_path: str, config: Any = None, *, encoder_options: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Return a new model on a pre-trained speech encoder, in evaluation mode, if the family is built on an encoder."""
        family = cls.config_class.model_type
        raise ValueError(f"Expected no `model.encoder` for {family}, which is built on none, got {name_or_path!r}.")

    @classmethod
    def with_knowledge_from(cls, name_or_path: Any, **options: Any) -> tuple[Any, dict[str, list[str]]]:
        """Return a new model that starts from the weights of another family's model, if the family supports that."""
        family = cls.config_class.model_type
        raise ValueError(f"Expected no `model.knowledge_from` for {family}, which takes over no trunk; it is for mtq_net.")

    def layer_trace(self, output_attentions: bool | None = None, output_hidden_states: bool | None = None) -> LayerTrace:
        """Return the record that layers fill; to keep attention weights, or with `"eager"`, they do without fused attention."""
        explicit = bool(output_attentions) or self.config._attn_implementation == "eager"
        return LayerTrace(explicit, [] if output_hidden_states else None, [] if output_attentions else None)

    @property
    def window_samples(self) -> int | None:
        """Length in samples of the windows that the network scores; `None` if it takes recordings of any length at once."""
        return None

    @property
    def min_samples(self) -> int:
        """Length of the shortest row that gives a score, in samples, or in spectra for a spectral model."""
        return 1

    def row_lengths(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the length of every row by its mask, `(B,)`: samples of `(B, T)` or spectra of `(B, T, K)`; `None` without a mask.

        Raises:
            ValueError: If the inputs have another shape, or a row is shorter than `min_samples`.
        """
        dims, unit = (3, "spectra") if self.main_input_name == "input_features" else (2, "samples")
        if inputs.dim() != dims:
            shape = f"(batch_size, num_{unit}{', num_values' * (dims - 2)})"
            raise ValueError(f"Expected `{self.main_input_name}` of shape {shape}, got {tuple(inputs.shape)}.")
        lengths, shortest = None, inputs.shape[1]
        if attention_mask is not None:
            lengths = attention_mask.sum(dim=1)
            shortest = shortest if torch.compiler.is_compiling() else int(lengths.min())
        if shortest < self.min_samples:
            rate, expected = self.config.sampling_rate, "one sample" if dims == 2 else "one spectrum"
            if self.min_samples > 1 and rate:
                expected = f"{self.min_samples} samples ({1000 * self.min_samples / rate:.1f} ms at {rate} Hz)"
            raise ValueError(
                f"Expected at least {expected} in every recording, got {shortest}: shorter audio gives no frame. Leave such "
                "recordings out."
            )
        return lengths

    def in_score_range(self, raw: torch.Tensor) -> torch.Tensor:
        """Map raw outputs to the range from `score_min` to `score_max` by a sigmoid."""
        return self.config.score_min + (self.config.score_max - self.config.score_min) * torch.sigmoid(raw)

    @property
    def bfloat16_error(self) -> float | None:
        """Largest change of a score in bfloat16, as measured for this checkpoint on a CPU; `None` if unknown."""
        return None

    @property
    def scores_waveforms(self) -> bool:
        """Whether the model scores recordings; `False` if it needs precomputed features."""
        return True

    @property
    def needs_bands(self) -> bool:
        """Whether [`measure_bands`] must see training speech before the first training step."""
        return False

    def measure_bands(self, windows: Iterable[np.ndarray]) -> None:
        """Measure mean and deviation of the input's bands, or of the feature channels; refuse if the model does not use them."""
        raise ValueError(f"Expected a model that normalises its input by measured bands, got {type(self).__name__}.")

    def begin_at(self, scores: Sequence[float]) -> None:
        """Initialise new heads to predict these scores, one per head, for any recording; NaN leaves a head as it is."""
        raise ValueError(
            f"Expected a family whose heads can begin at a score (mosa_net, mtq_net), got {type(self).__name__}; leave "
            "`training.begin_at_mean` out."
        )

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """Return the defaults of `hf-sqa finetune` for this model on a device such as `"cpu"`."""
        return FineTuningDefaults()

    def pruning_layout(self) -> Any:
        """Return the units that pruning can remove, a [`~hf_sqa.blocks.pruning_layout.PruningLayout`]; refuse if there are none."""
        raise ValueError(
            f"Expected a DistilledSQA, or a model with a transformer encoder (XLSRSQA, Wav2Vec2ForMOS), got {type(self).__name__}: "
            "it is not known how to prune it."
        )

    def save_for_inference(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save a trained model without the parts that only training needs; see [`save_pretrained`]."""
        self.save_pretrained(save_directory, **kwargs)

    def make_feature_extractor(self) -> Any:
        """Return a feature extractor with the settings that this checkpoint needs, ready to be saved beside it."""
        return Wav2Vec2FeatureExtractor(sampling_rate=self.config.sampling_rate, do_normalize=False, return_attention_mask=True)

    def check_feature_extractor(self, feature_extractor: Any) -> None:
        """Refuse a feature extractor that prepares inputs differently from those the model was trained on."""
        expected = self.make_feature_extractor()
        for name in ("sampling_rate", "do_normalize", *(["return_attention_mask"] if self.pads_safely else [])):
            ours, theirs = getattr(expected, name, None), getattr(feature_extractor, name, None)
            if hasattr(expected, name) and ours != theirs:
                raise ValueError(
                    f"Expected a feature extractor with `{name}={ours}`, which this model was trained with, got {theirs}: scores "
                    "would be plausible but wrong. Make a matching one with `model.make_feature_extractor()`."
                )

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Return example inputs of the ONNX graph by name, each with its dynamic axes; without padding, and so without a mask.

        A family of windows takes windows: the graph neither cuts recordings into windows nor averages their scores.
        """
        window = getattr(self.config, "window_samples", None)
        samples = window or (self.config.sampling_rate or 16_000) // 4
        waveforms = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
        return {"input_values": (waveforms, (0,) if window else (0, 1))}

    #: Whether the page of `hf-sqa export onnx --page` supports the windows of this family.
    scores_in_browser: ClassVar[bool] = False

    def onnx_spectrum(self) -> tuple[np.ndarray, dict[str, str]] | None:
        """Return the window of an ONNX graph's spectrum, and metadata; `None` without one. 8 bits and the page need a spectrum."""
        return None

    def local_graph(self) -> tuple[torch.nn.Module, dict[str, int]] | None:
        """Return the network behind [`local_scorer`] for an ONNX graph, and how to feed it; `None` if it scores whole pieces."""
        return None

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Return the loss that the configuration names, over the rated scores; `None` without labels."""
        if labels is None:
            return None
        return score_loss(logits, labels, self.config)

    @torch.inference_mode()
    def score_recordings(
        self,
        recordings: Sequence[Recording],
        feature_extractor: Any = None,
        *,
        mode: str = "published",
        hop_seconds: float | None = None,
    ) -> list[RecordingScores]:
        """Score recordings, each as if it were alone.

        Args:
            recordings (`Sequence[Recording]`): At the model's sampling rate.
            feature_extractor (*optional*): The checkpoint's; [`make_feature_extractor`] makes one if not given.
            mode (`str`, *optional*, defaults to `"published"`): One of `modes`.
            hop_seconds (`float`, *optional*): Distance between window starts, for families that score windows.

        Returns:
            `list[RecordingScores]`: In the order of `recordings`.

        Raises:
            ValueError: If the family does not have the mode, or has no windows to move by `hop_seconds`, or the feature extractor
                does not fit the model.
        """
        self.check_scoring_options(mode, hop_seconds)
        return self._score_recordings(recordings, feature_extractor or self.make_feature_extractor(), mode, hop_seconds)

    def _score_recordings(
        self, recordings: Sequence[Recording], feature_extractor: Any, mode: str, hop_seconds: float | None
    ) -> list[RecordingScores]:
        """Hook: score recordings after [`score_recordings`] has checked the options."""
        self.check_feature_extractor(feature_extractor)
        groups: dict[Any, list[int]] = {}
        for index, recording in enumerate(recordings):
            groups.setdefault(None if self.pads_safely else recording.num_samples, []).append(index)
        results: dict[int, RecordingScores] = {}
        for indices in groups.values():
            inputs = feature_extractor(
                [recordings[index].waveform for index in indices],
                sampling_rate=recordings[indices[0]].sampling_rate,
                padding=True,
                return_tensors="pt",
            )
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            for index, scores in zip(indices, self(**inputs).logits.float().cpu().numpy(), strict=True):
                length = recordings[index].num_samples
                results[index] = RecordingScores(scores, np.array([0]), np.array([length]), scores[None])
        return [results[index] for index in range(len(recordings))]

    def local_scorer(
        self, feature_extractor: Any, hop_seconds: float = HOP_SECONDS, sampling_rate: int | None = None
    ) -> LocalScorer:
        """Return a scorer of one recording that computes the quality of every `hop_seconds` as samples arrive.

        `sampling_rate` is that of the samples in Hz, for a model that takes any rate; 16000 if not given.
        """
        return PieceScorer(self, feature_extractor, hop_seconds, self.config.sampling_rate or sampling_rate or 16_000)

    @contextmanager
    def keep_frames(self) -> Iterator[dict[int, Any]]:
        """Hook: while recordings are scored, keep what their [`local_scorer`] would compute again, by the recording's `id`."""
        yield {}

    def check_scoring_options(self, mode: str, hop_seconds: float | None) -> None:
        """Refuse a mode or a hop that this family does not have."""
        if mode not in self.modes:
            raise ValueError(f"Expected `mode` to be one of {', '.join(self.modes)} for {type(self).__name__}, got {mode!r}.")
        if hop_seconds is not None:
            raise ValueError(f"{type(self).__name__} scores a recording as a whole; leave `hop_seconds` out.")

    def check_interval(self, coverage: float) -> None:
        """Refuse an interval if the checkpoint has no calibration, one for other weights, or one that lacks this coverage."""
        for name, calibration in (self.config.score_intervals or {}).items():
            if calibration.get("weights") and not self.has_weights(calibration["weights"]):
                raise ValueError(
                    f"The interval of {name!r} was calibrated for other weights than these, whose errors differ: calibrate again "
                    "with `hf-sqa calibrate`."
                )
        check_intervals(self.config.score_intervals, coverage)

    def has_weights(self, digest: str) -> bool:
        """Whether the weights have this digest; always true in half precision, where digests differ but scores hardly do."""
        return self.dtype != torch.float32 or weights_digest(self) == digest


def cut_rows(batch: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
    """Return the rows of a batch `(B, T)` without padding, `(length,)` each; without `lengths`, all rows are whole."""
    return list(batch) if lengths is None else [row[: int(length)] for row, length in zip(batch, lengths.tolist(), strict=True)]


def _refuse_integer_weights(name: str, model: PreTrainedModel, options: Mapping[str, Any]) -> None:
    """Refuse integer weights: no real checkpoint has them, only a damaged or forged header does."""
    hub_options = {option: options[option] for option in ("cache_dir", "revision", "token") if options.get(option) is not None}
    file = cached_file(name, "model.safetensors", local_files_only=True, _raise_exceptions_for_missing_entries=False, **hub_options)
    if file is None:  # in shards, or in memory
        return
    with safe_open(file, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118  # not a dict
            kind = weights.get_slice(key).get_dtype()
            if not kind.startswith(("F", "BF")) and key in dict(model.named_parameters()):
                raise ValueError(f"Expected floating-point weights in {name!r}, got {kind} for {key}: get the file again.")


def _refuse_unknown_options(config: Any) -> None:
    """Refuse a newer hf_sqa's options that this version would ignore, which would change the score."""
    written_by = getattr(config, "hf_sqa_version", None)
    if written_by is None or Version(written_by) <= Version(__version__):
        return
    known, ours = type(config)(), {"hf_sqa_version", "auto_map", "custom_pipelines"}
    if unknown := sorted(name for name in vars(config) if name not in ours and not hasattr(known, name)):
        raise ValueError(
            f"The checkpoint was made by hf_sqa {written_by}, this is hf_sqa {__version__}, which does not know "
            f"{', '.join(unknown)}: `pip install --upgrade hf-sqa`."
        )


def model_identity(model: PreTrainedModel, feature_extractor: Any, **scoring_options: Any) -> dict[str, str | None]:
    """Return the identity of a score: equal identities give equal scores for the same recording.

    It has `id`, `revision` (commit on the Hub, `None` for a local folder), `weights` (first 16 characters of a SHA-256 over names,
    types and values) and `preprocessing` (the same over extractor, resampling, score mapping, and `**scoring_options`: everything
    else that affects a score, such as `mode` and `hop_seconds`).
    """
    config = model.config
    name = getattr(config, "checkpoint_name", None) or config._name_or_path or type(model).__name__
    described = {"extractor": feature_extractor.to_dict(), "resampling": RESAMPLING_QUALITY, **scoring_options}
    if getattr(config, "score_mapping", None):
        described["score_mapping"] = config.score_mapping
    return {
        "id": Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name,
        "revision": getattr(config, "_commit_hash", None),
        "weights": weights_digest(model),
        "preprocessing": digest_of(described, DIGEST_CHARACTERS),
    }


def weights_digest(model: PreTrainedModel, with_form: bool = True) -> str:
    """Return 16 characters of a SHA-256 over names and values of parameters and buffers, and types and shapes if `with_form`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update((f"{name} {tensor.dtype} {tuple(tensor.shape)}\n" if with_form else name).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:DIGEST_CHARACTERS]
