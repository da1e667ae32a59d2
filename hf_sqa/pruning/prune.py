"""Pruning: take away what a model's scores need least, repair the rest, again and again, and end with a smaller dense model.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Differs:  the paper's pruning score and schedule are not known; those here are ours.

A unit is a convolution channel, a hidden unit of a feed-forward or of the pooling, an attention head, or a whole layer. How much a
unit matters is measured on calibration speech, in points of the score:

    gradient    root mean square over windows of the sum of gradient times activation: the first-order change without it
    energy      root of the mean square of its activation times the squared norm of the weights behind it, scaled to the above
    drop-one    of layers always: root mean square of the change of the score when the layer is skipped

Units leave in the order of importance by weight. What a removed unit gave on average goes into the bias behind it. Repair is
distillation from the unpruned model on the calibration windows: its scores and, where the last part is an [`SQATransformer`], whose
width pruning keeps, its frames there. Agreement is that with the unpruned model, on windows kept aside.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.blocks.sqa_transformer import batch_norm_as_affine
from hf_sqa.distillation.labels import (
    Shard,
    SpeechClip,
    SpeechPool,
    WindowCache,
    find_transformer,
    folder_speech,
)
from hf_sqa.metrics import agreement
from hf_sqa.runs import write_whole

CRITERIA = ("gradient", "energy")
REPORT = "pruning.json"
#: Units of each kind that stay whatever they are worth.
LEAST = {"channels": 4, "units": 4, "heads": 1, "layers": 1}
#: What a configuration holds beside its options.
NOT_OPTIONS = ("architectures", "transformers_version", "model_type", "dtype", "label2id", "num_labels", "_name_or_path")
#: Calibration windows, unless another number is asked for.
NUM_WINDOWS = 400
#: Of the calibration windows, kept aside to measure agreement.
HELD_OUT_SHARE = 0.25
MIN_WINDOWS = 4
#: Of the repair's steps. A pruned model is close to a minimum, from which full first steps of Adam throw it far.
WARMUP_SHARE = 0.1
#: Of a frame's feature, so that one that never changes does not weigh more than the others.
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class PruningOptions:
    """How to prune.

    Args:
        target (`float`): Share of the weights to keep, above 0 and below 1.
        min_agreement (`float`, *optional*): Linear correlation with the unpruned model after repair below which pruning stops, with
            the model of the step before.
        criterion (`str`): `"gradient"` or `"energy"`.
        num_steps (`int`): Steps to the target, each by the same factor.
        repair_steps (`int`): Optimiser steps after each.
        batch_size (`int`): Windows in one of these.
        learning_rate (`float`): Of the repair, rising at first and falling to 0 by a cosine.
        bf16 (`bool`): Whether repair computes in bfloat16 where that is safe; twice as fast on processors that have it.
        num_measured (`int`): Of the windows to repair on, so many say what units are worth.
        kinds (`tuple[str]`): What may go, out of `channels`, `units`, `heads` and `layers`.
        seed (`int`): Of the order in repair.
    """

    target: float
    min_agreement: float | None = None
    criterion: str = "gradient"
    num_steps: int = 4
    repair_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 5e-5
    bf16: bool = False
    num_measured: int = 32
    kinds: tuple[str, ...] = ("channels", "units", "heads", "layers")
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"Expected `target`, the share of the weights to keep, above 0 and below 1, got {self.target}.")
        if self.criterion not in CRITERIA:
            raise ValueError(f"Expected `criterion` to be one of {', '.join(CRITERIA)}, got {self.criterion!r}.")
        if self.min_agreement is not None and not 0 < self.min_agreement < 1:
            raise ValueError(f"Expected `min_agreement`, a correlation, above 0 and below 1, got {self.min_agreement}.")
        for name in ("num_steps", "batch_size", "num_measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of 1 or more, got {getattr(self, name)}.")
        if self.repair_steps < 0:
            raise ValueError(f"Expected `repair_steps` of 0 or more, got {self.repair_steps}.")
        if unknown := sorted(set(self.kinds) - set(LEAST)):
            raise ValueError(f"Expected `kinds` out of {', '.join(LEAST)}, got {', '.join(unknown)}.")


@dataclass
class PruningStep:
    """What one step did.

    Args:
        num_parameters (`int`): Weights after it.
        share (`float`): Of those of the unpruned model.
        removed (`dict[str, int]`): Units removed, by kind.
        sizes (`dict[str, int]`): What is left of every group.
        before_repair, after_repair (`dict[str, float]`): `lcc` and `rmse` with the unpruned model on the windows kept aside.
        seconds (`float`): It took.
    """

    num_parameters: int
    share: float
    removed: dict[str, int]
    sizes: dict[str, int]
    before_repair: dict[str, float]
    after_repair: dict[str, float]
    seconds: float


@dataclass
class PruningResult:
    """A pruned model and how it came about."""

    model: Any
    steps: list[PruningStep] = field(default_factory=list)
    stopped: str | None = None

    def report(self) -> dict[str, Any]:
        """All but the model, ready for JSON."""
        return {"stopped": self.stopped, "steps": [asdict(step) for step in self.steps]}


@dataclass
class Calibration:
    """Windows to measure and repair on, and others, of other recordings, to measure agreement on.

    Args:
        repair (`list[np.ndarray]`): Float32 waveforms.
        held_out (`list[np.ndarray]`): Float32 waveforms.
        sampling_rate (`int`): Their rate in Hz.
        excluded (`dict[str, str]`): Recordings that were not used, and why.
    """

    repair: list[np.ndarray]
    held_out: list[np.ndarray]
    sampling_rate: int
    excluded: dict[str, str] = field(default_factory=dict)


def load_calibration(source: str | Path, model: Any, num_windows: int = NUM_WINDOWS, seed: int = 0) -> Calibration:
    """Windows of recordings.

    Args:
        source (`str` or `Path`): A folder of recordings, a table or corpus as for `load_corpus`, or a folder of windows of
            `hf-sqa distill`. It should sound like what the model will hear, degraded as much.
        model: The model to prune.
        num_windows (`int`, *optional*, defaults to 400): Windows in all; a quarter is kept aside. Repair on a few dozen makes a
            model worse on others.
        seed (`int`, *optional*, defaults to 0): Of the draw.

    Raises:
        ValueError: If there are fewer than two recordings, or too few windows.
    """
    rate = model.config.sampling_rate or 16_000
    samples = getattr(model.config, "window_samples", None) or round(7.68 * rate)
    if (Path(source) / "speech.json").exists():
        calibration = _windows_of_cache(WindowCache(source), rate, num_windows)
    else:
        calibration = _windows_of_recordings(source, rate, samples, num_windows, seed)
    if min(len(calibration.repair), len(calibration.held_out)) < MIN_WINDOWS:
        raise ValueError(
            f"Expected {MIN_WINDOWS} calibration windows of {samples / rate:.2f} s or more on both sides, got "
            f"{len(calibration.repair)} to repair on and {len(calibration.held_out)} to measure agreement on; give more recordings."
        )
    return calibration


def prune(
    model: Any,
    calibration: Calibration,
    options: PruningOptions,
    *,
    folder: str | Path | None = None,
    on_step: Callable[[int, PruningStep], None] | None = None,
) -> PruningResult:
    """Prune a model of DistilledSQA, or the transformer encoder inside XLSRSQA or Wav2Vec2ForMOS.

    Of an encoder, layers and hidden units can go, equally many units in every layer: its configuration has one width for all.

    Args:
        model: The model; it is left as it is.
        calibration ([`Calibration`]): Speech.
        options ([`PruningOptions`]): How far and how.
        folder (`str` or `Path`, *optional*): Where every step is kept; pruning that was cut short goes on after the last of them.
        on_step (callable, *optional*): Called with the number of a step and the [`PruningStep`].

    Returns:
        [`PruningResult`]: With a new model, in evaluation mode.

    Raises:
        ValueError: If the model cannot be pruned, or not so far; the message says how far.
    """
    layout_class = _layout_of(model)
    unpruned = copy.deepcopy(model).float().eval()
    total = _num_parameters(unpruned)
    aims = _aims(unpruned, calibration.repair)
    held_out = _targets(unpruned, calibration.held_out)
    result = PruningResult(copy.deepcopy(unpruned))
    journal = _Journal(folder, options, total)
    for number, step in enumerate(journal.finished):
        result.steps.append(step)
        result.model = journal.load(number, unpruned)
    while len(result.steps) < options.num_steps and result.stopped is None:
        number = len(result.steps)
        began = time.monotonic()
        goal = math.floor(total * options.target ** ((number + 1) / options.num_steps))
        layout = layout_class(result.model)
        every = max(1, len(calibration.repair) // options.num_measured)
        measured = _measure(layout, calibration.repair[::every][: options.num_measured], options)
        keep = _choose(layout, measured, goal, options)
        removed: Counter[str] = Counter()
        for name, group in layout.groups.items():
            removed[group.kind] += group.size - len(keep[name])
        pruned = layout.pruned(keep, measured.means)
        before = _agreement(pruned, calibration.held_out, held_out)
        _repair(pruned, calibration.repair, aims, options, number)
        after = _agreement(pruned, calibration.held_out, held_out)
        step = PruningStep(
            num_parameters=_num_parameters(pruned),
            share=_num_parameters(pruned) / total,
            removed={kind: count for kind, count in removed.items() if count},
            sizes={name: len(kept) for name, kept in keep.items()},
            before_repair=before,
            after_repair=after,
            seconds=time.monotonic() - began,
        )
        if options.min_agreement is not None and not after["lcc"] >= options.min_agreement:
            result.stopped = (
                f"With {step.share:.1%} of the weights the agreement after repair is {after['lcc']:.4f}, below "
                f"{options.min_agreement}; this is the model of the step before."
            )
            break
        result.steps.append(step)
        result.model = pruned
        journal.keep(number, step, pruned)
        if on_step is not None:
            on_step(number, step)
    return result


# ---- What can go


@dataclass
class Group:
    """Units of one place.

    Args:
        kind (`str`): `"channels"`, `"units"`, `"heads"` or `"layers"`.
        size (`int`): How many there are.
        weights_each (`int`): Weights that go with one of them.
        outgoing (`torch.Tensor` of shape `(size,)`, *optional*): Squared norm of the weights behind each; none for layers.
    """

    kind: str
    size: int
    weights_each: int
    outgoing: torch.Tensor | None = None


class DistilledLayout:
    """The units of a DistilledSQA, and how to build one without some of them."""

    #: Kinds whose groups end with equally many units.
    equal_kinds: tuple[str, ...] = ()

    def __init__(self, model: Any):
        self.model, self.config = model, model.config
        transformer = model.transformer
        hidden, head_size = (
            self.config.hidden_size,
            self.config.head_size or self.config.hidden_size // self.config.num_attention_heads,
        )
        self.head_size, self.num_bins = head_size, self.config.conv_num_bins
        self.groups: dict[str, Group] = {}
        layers = list(model.trunk.layers)
        for index, channels in enumerate(self.config.conv_channels):
            last = index == len(layers) - 1
            own = self._producer(index).weight[0].numel() + 1
            if last:
                norms = 2 if transformer.feature_norm is not None else 1
                behind = (hidden + 2 * norms) * self.num_bins
                outgoing = self._by_channel(self._projection_columns().square().sum(dim=0)).sum(dim=0)
            else:
                following = layers[index + 1]
                behind = following.weight.numel() // following.weight.shape[1 if following.groups == 1 else 0]
                mix = dict(model.trunk.mixes.items()).get(str(index + 1))
                outgoing = following.weight.square().sum(dim=(0, 2, 3) if following.groups == 1 else (1, 2, 3))
                if mix is not None:
                    behind += 1 + mix.weight.shape[0]
                    outgoing = outgoing * mix.weight.square().sum(dim=(0, 2, 3))
            self.groups[f"trunk.{index}"] = Group("channels", channels, own + behind, outgoing.detach())
        for index, layer in enumerate(transformer.layers):
            attention = layer.self_attn
            out = attention.out_proj.weight.square().sum(dim=0).view(-1, head_size).sum(dim=1)
            heads = Group("heads", attention.num_heads, 3 * head_size * (hidden + 1) + head_size * hidden, out.detach())
            self.groups[f"heads.{index}"] = heads
            units = layer.fc2.weight.square().sum(dim=0)
            self.groups[f"units.{index}"] = Group("units", layer.fc1.out_features, 2 * hidden + 1, units.detach())
        pooling = transformer.pooling
        outgoing = pooling.attention_score.weight.square().sum(dim=0)
        self.groups["pooling"] = Group("units", pooling.attention_hidden.out_features, hidden + 2, outgoing.detach())
        each = sum(parameter.numel() for parameter in transformer.layers[0].parameters()) if len(transformer.layers) else 0
        self.groups["layers"] = Group("layers", len(transformer.layers), each)

    @property
    def layers(self) -> nn.ModuleList:
        """What drop-one skips."""
        return self.model.transformer.layers

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer may go beside others."""
        return True

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Scores `(B, L)` of windows `(B, T)`."""
        return self.model.score_windows(batch)

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        """Collects, while scores are computed, what every group gives: units last, `(B, ..., size)`."""
        found: dict[str, torch.Tensor] = {}
        trunk, handles = self.model.trunk, []
        activate = trunk.activation

        def see_channels(hidden_states: torch.Tensor) -> torch.Tensor:
            output = _kept(activate(hidden_states))
            found[f"trunk.{sum(name.startswith('trunk.') for name in found)}"] = output
            return output

        def see(name: str) -> Any:
            return lambda _, inputs: found.__setitem__(name, _kept(inputs[0]))

        trunk.activation = see_channels
        for index, layer in enumerate(self.model.transformer.layers):
            handles.append(layer.self_attn.out_proj.register_forward_pre_hook(see(f"heads.{index}")))
            handles.append(layer.fc2.register_forward_pre_hook(see(f"units.{index}")))
        handles.append(self.model.transformer.pooling.attention_score.register_forward_pre_hook(see("pooling")))
        try:
            yield found
        finally:
            del trunk.activation
            for handle in handles:
                handle.remove()

    def by_unit(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Values in the shape of an activation `(B, ...)` as `(B, positions, size)`; of heads, their width is a position."""
        if name.startswith("trunk."):
            return values.flatten(2).transpose(1, 2)
        if name.startswith("heads."):
            return values.unflatten(-1, (-1, self.head_size)).transpose(-1, -2).flatten(1, -2)
        return values.flatten(1, -2)

    def mean(self, name: str, activation: torch.Tensor) -> torch.Tensor:
        """What a group gives on average: of heads one number a column, of the last channels one a bin and channel."""
        if name == f"trunk.{len(self.model.trunk.layers) - 1}":
            return activation.mean(dim=(0, 2)).T.flatten()  # (B, C, F, K) to bin first
        if name.startswith("trunk."):
            return activation.mean(dim=(0, 2, 3))
        return activation.flatten(0, -2).mean(dim=0)

    def config_for(self, keep: dict[str, np.ndarray]) -> Any:
        """Configuration of a model with these units."""
        layers = keep["layers"].tolist()
        options = self.config.to_diff_dict() | {
            "conv_layer_channels": [len(keep[f"trunk.{index}"]) for index in range(self.config.num_conv_layers)],
            "num_hidden_layers": len(layers),
            "head_size": self.head_size,
            "layer_num_heads": [len(keep[f"heads.{index}"]) for index in layers],
            "layer_intermediate_sizes": [len(keep[f"units.{index}"]) for index in layers],
            "pooling_size": len(keep["pooling"]),
            "checkpoint_name": None,
        }
        for name in NOT_OPTIONS:
            options.pop(name, None)
        return type(self.config)(**options)

    def pruned(self, keep: dict[str, np.ndarray], means: dict[str, torch.Tensor]) -> Any:
        """A new model with these units, its biases holding what the others gave on average."""
        kept = {name: torch.from_numpy(np.asarray(places, np.int64)) for name, places in keep.items()}
        gone = {name: _others(places, self.groups[name].size) for name, places in kept.items()}
        layers = kept["layers"].tolist()
        model = type(self.model)(self.config_for(keep))
        state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self._cut_trunk(state, kept, gone, means)
        cut: dict[str, torch.Tensor] = {}
        for name, tensor in state.items():
            if not name.startswith("transformer.layers."):
                cut[name] = tensor
        for place, index in enumerate(layers):
            for name, tensor in self._cut_layer(state, index, kept, gone, means).items():
                cut[f"transformer.layers.{place}.{name}"] = tensor
        pooling = kept["pooling"]
        for name in ("attention_hidden.weight", "attention_hidden.bias"):
            cut[f"transformer.pooling.{name}"] = state[f"transformer.pooling.{name}"][pooling]
        cut["transformer.pooling.attention_score.weight"] = state["transformer.pooling.attention_score.weight"][:, pooling]
        model.load_state_dict(cut)
        return model.eval()

    def _producer(self, index: int) -> nn.Conv2d:
        """The convolution whose outputs are the channels of a layer."""
        trunk = self.model.trunk
        return trunk.mixes[str(index)] if str(index) in trunk.mixes else trunk.layers[index]

    def _projection_columns(self) -> torch.Tensor:
        """The projection with the norms in front of it folded in, `(D, K * C)`."""
        scale, _ = self._folded_norms()
        return self.model.transformer.projection.weight * scale

    def _folded_norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        transformer = self.model.transformer
        scale, shift = batch_norm_as_affine(transformer.projection_norm)
        if transformer.feature_norm is not None:
            first_scale, first_shift = batch_norm_as_affine(transformer.feature_norm)
            scale, shift = first_scale * scale, first_shift * scale + shift
        return scale, shift

    def _by_channel(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the flattened trunk `(K * C,)` as `(K, C)`."""
        return values.view(self.num_bins, -1)

    def _cut_trunk(self, state: dict[str, torch.Tensor], kept: dict, gone: dict, means: dict[str, torch.Tensor]) -> None:
        trunk = self.model.trunk
        last = len(trunk.layers) - 1
        for index in range(len(trunk.layers)):
            name = f"trunk.layers.{index}"
            mix = f"trunk.mixes.{index}" if str(index) in trunk.mixes else None
            if index:
                before, lost = kept[f"trunk.{index - 1}"], gone[f"trunk.{index - 1}"]
                given = means[f"trunk.{index - 1}"][lost]
                weight = state[f"{name}.weight"]
                if mix is None:
                    state[f"{name}.bias"] += weight[:, lost].sum(dim=(2, 3)) @ given
                    state[f"{name}.weight"] = weight[:, before]
                else:
                    filtered = state[f"{name}.bias"][lost] + weight[lost].sum(dim=(1, 2, 3)) * given
                    state[f"{mix}.bias"] += state[f"{mix}.weight"][:, lost, 0, 0] @ filtered
                    state[f"{mix}.weight"] = state[f"{mix}.weight"][:, before]
                    state[f"{name}.weight"], state[f"{name}.bias"] = weight[before], state[f"{name}.bias"][before]
            produced = mix or name
            for part in ("weight", "bias"):
                state[f"{produced}.{part}"] = state[f"{produced}.{part}"][kept[f"trunk.{index}"]]
        channels = self.groups[f"trunk.{last}"].size
        bins = torch.arange(self.num_bins)[:, None] * channels
        columns, lost = (bins + kept[f"trunk.{last}"]).flatten(), (bins + gone[f"trunk.{last}"]).flatten()
        scale, shift = self._folded_norms()
        weight = state["transformer.projection.weight"]
        normed = (scale * means[f"trunk.{last}"] + shift)[lost]
        state["transformer.projection.bias"] += weight[:, lost] @ normed.detach()
        state["transformer.projection.weight"] = weight[:, columns]
        for norm in ("feature_norm", "projection_norm"):
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"transformer.{norm}.{part}" in state:
                    state[f"transformer.{norm}.{part}"] = state[f"transformer.{norm}.{part}"][columns]

    def _cut_layer(
        self, state: dict[str, torch.Tensor], index: int, kept: dict, gone: dict, means: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        prefix = f"transformer.layers.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        width = torch.arange(self.head_size)
        columns = (kept[f"heads.{index}"][:, None] * self.head_size + width).flatten()
        lost = (gone[f"heads.{index}"][:, None] * self.head_size + width).flatten()
        for name in ("q_proj", "k_proj", "v_proj"):
            for part in ("weight", "bias"):
                own[f"self_attn.{name}.{part}"] = own[f"self_attn.{name}.{part}"][columns]
        weight = own["self_attn.out_proj.weight"]
        own["self_attn.out_proj.bias"] = own["self_attn.out_proj.bias"] + weight[:, lost] @ means[f"heads.{index}"][lost]
        own["self_attn.out_proj.weight"] = weight[:, columns]
        units, lost = kept[f"units.{index}"], gone[f"units.{index}"]
        own["fc1.weight"], own["fc1.bias"] = own["fc1.weight"][units], own["fc1.bias"][units]
        own["fc2.bias"] = own["fc2.bias"] + own["fc2.weight"][:, lost] @ means[f"units.{index}"][lost]
        own["fc2.weight"] = own["fc2.weight"][:, units]
        return own


class EncoderLayout:
    """The units of the transformer encoder inside a model: layers, and hidden units, the least of every layer together."""

    equal_kinds: tuple[str, ...] = ("units",)

    def __init__(self, model: Any):
        self.model, self.config = model, model.config
        self.encoder_config = model.config.encoder_config
        blocks = self.layers
        forwards: list[Any] = [getattr(block, "feed_forward", None) for block in blocks]
        if not blocks or any(not hasattr(forward, "intermediate_dense") for forward in forwards):
            raise ValueError(
                f"Expected an encoder whose blocks have one feed-forward, as wav2vec 2.0, HuBERT or WavLM, got "
                f"{self.encoder_config.model_type}, which cannot be pruned here."
            )
        width, hidden = forwards[0].intermediate_dense.out_features, self.encoder_config.hidden_size
        outgoing = [forward.output_dense.weight.detach().square().sum(dim=0) for forward in forwards]
        self.groups = {f"units.{index}": Group("units", width, 2 * hidden + 1, one) for index, one in enumerate(outgoing)}
        self.groups["layers"] = Group("layers", len(blocks), sum(parameter.numel() for parameter in blocks[-1].parameters()))
        if getattr(self.config, "mix_layers", False):
            del self.groups["layers"]  # the mix has a weight for each

    @property
    def layers(self) -> Any:
        """What drop-one skips."""
        return self.model.encoder.encoder.layers

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer may go beside others: features are taken behind some, and WavLM keeps its positions in the first."""
        if layer == 0 and self.encoder_config.model_type == "wavlm":
            return False
        return self._shifted_layers(dropped | {layer}) is not None

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Scores `(B, L)` of windows `(B, T)`."""
        inputs = self.model.make_feature_extractor()(
            list(batch.numpy()), sampling_rate=self.config.sampling_rate, return_tensors="pt"
        )
        return self.model(**{name: tensor for name, tensor in inputs.items() if name != "attention_mask"}).logits

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        """As for [`DistilledLayout`]."""
        found: dict[str, torch.Tensor] = {}

        def see(name: str) -> Any:
            return lambda _, inputs: found.__setitem__(name, _kept(inputs[0]))

        handles = [
            block.feed_forward.output_dense.register_forward_pre_hook(see(f"units.{index}"))
            for index, block in enumerate(self.layers)
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def by_unit(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """As for [`DistilledLayout`]."""
        return values.flatten(1, -2)

    def mean(self, name: str, activation: torch.Tensor) -> torch.Tensor:
        """As for [`DistilledLayout`]."""
        return activation.flatten(0, -2).mean(dim=0)

    def pruned(self, keep: dict[str, np.ndarray], means: dict[str, torch.Tensor]) -> Any:
        """As for [`DistilledLayout`]."""
        kept_layers = self._kept_layers(keep)
        model = type(self.model)(self.config_for(keep))
        cut: dict[str, torch.Tensor] = {}
        for name, tensor in self.model.state_dict().items():
            if not name.startswith("encoder.encoder.layers."):
                cut[name] = tensor.detach().clone()
                continue
            _, _, _, number, rest = name.split(".", 4)
            index = int(number)
            if index not in kept_layers:
                continue
            units = torch.from_numpy(np.asarray(keep[f"units.{index}"], np.int64))
            lost = _others(units, self.groups[f"units.{index}"].size)
            if rest.startswith("feed_forward.intermediate_dense."):
                tensor = tensor[units]
            elif rest == "feed_forward.output_dense.bias":
                weight = self.layers[index].feed_forward.output_dense.weight
                tensor = tensor + weight[:, lost] @ means[f"units.{index}"][lost]
            elif rest == "feed_forward.output_dense.weight":
                tensor = tensor[:, units]
            cut[f"encoder.encoder.layers.{kept_layers.index(index)}.{rest}"] = tensor.detach().clone()
        model.load_state_dict(cut)
        return model.eval()

    def config_for(self, keep: dict[str, np.ndarray]) -> Any:
        """As for [`DistilledLayout`]."""
        layers = self._kept_layers(keep)
        config = copy.deepcopy(self.config)
        config.encoder_config.intermediate_size = len(keep["units.0"])
        config.encoder_config.num_hidden_layers = len(layers)
        shifted = self._shifted_layers(set(range(len(self.layers))) - set(layers))
        if getattr(config, "layers", None):
            config.layers = tuple(shifted or ())
        elif getattr(config, "layer", None) is not None:
            config.layer = shifted[0] if shifted else None
        config.checkpoint_name = None
        return config

    def _kept_layers(self, keep: dict[str, np.ndarray]) -> list[int]:
        return keep["layers"].tolist() if "layers" in keep else list(range(len(self.layers)))

    def _shifted_layers(self, dropped: set[int]) -> list[int] | None:
        """Where features are taken, counted from 1, with these blocks gone; `None` if two coincide or none is left."""
        taken = getattr(self.config, "layers", None) or ([self.config.layer] if getattr(self.config, "layer", None) else [])
        shifted = [layer - sum(block < layer for block in dropped) for layer in taken]
        return shifted if all(layer >= 1 for layer in shifted) and len(set(shifted)) == len(shifted) else None


def _layout_of(model: Any) -> type[Any]:
    if model.config.model_type == "distilled_sqa":
        return DistilledLayout
    encoder = getattr(model, "encoder", None)
    if encoder is not None and hasattr(getattr(encoder, "encoder", None), "layers"):
        return EncoderLayout
    raise ValueError(
        f"Expected a DistilledSQA, or a model with a transformer encoder (XLSRSQA, Wav2Vec2ForMOS), got {type(model).__name__}: "
        "it is not known how to prune it."
    )


# ---- What matters


@dataclass
class _Measured:
    importance: dict[str, np.ndarray]
    means: dict[str, torch.Tensor]


def _measure(layout: Any, windows: Sequence[np.ndarray], options: PruningOptions) -> _Measured:
    """Importance of every unit in points of the score, and mean activations."""
    model = layout.model.eval()
    squares: dict[str, torch.Tensor] = {}
    energies: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    scores: list[torch.Tensor] = []
    batches = list(_batches(model, windows, 2))
    for batch in batches:
        with layout.activations() as found, torch.enable_grad():
            predicted = layout.scores(batch)
            scores.append(predicted.detach())
            wanted = list(found)
            gradients = torch.autograd.grad(predicted.sum(), [found[name] for name in wanted], allow_unused=True)
        for name, gradient in zip(wanted, gradients, strict=True):
            activation = found[name].detach()
            product = activation * gradient if gradient is not None else torch.zeros_like(activation)
            by_unit = layout.by_unit(name, product).sum(dim=1)  # (B, size)
            squares[name] = squares.get(name, 0) + by_unit.square().sum(dim=0)
            energies[name] = energies.get(name, 0) + layout.by_unit(name, activation).square().mean(dim=1).sum(dim=0)
            sums[name] = sums.get(name, 0) + layout.mean(name, activation) * len(batch)
    count = len(windows)
    importance = {name: (total / count).sqrt().double().numpy() for name, total in squares.items()}
    if options.criterion == "energy":
        for name, energy in energies.items():
            energy_of_unit = (energy / count * layout.groups[name].outgoing).sqrt().double().numpy()
            # In points of the score: together the units of a group are worth what they are by gradient.
            importance[name] = energy_of_unit * (importance[name].sum() / max(energy_of_unit.sum(), 1e-30))
    if "layers" in layout.groups and "layers" in options.kinds:
        importance["layers"] = _drop_one(layout, batches, torch.cat(scores))
    return _Measured(importance, {name: total / count for name, total in sums.items()})


@torch.inference_mode()
def _drop_one(layout: Any, batches: Sequence[torch.Tensor], scores: torch.Tensor) -> np.ndarray:
    """Root mean square change of the scores when a layer is skipped, for every layer."""
    changes = np.zeros(len(layout.layers))
    for index in range(len(layout.layers)):
        original = layout.layers[index]
        layout.layers[index] = _Skip(original)
        try:
            without = torch.cat([layout.scores(batch) for batch in batches])
        finally:
            layout.layers[index] = original
        changes[index] = float((without - scores).square().mean().sqrt())
    return changes


class _Skip(nn.Module):
    """In place of a layer: gives what it gets, in the shape in which the layer would."""

    def __init__(self, layer: Any):
        super().__init__()
        self.__dict__["layer"] = layer  # not as a submodule

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.__dict__["layer"](hidden_states, *args, **kwargs)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states


def _choose(layout: Any, measured: _Measured, goal: int, options: PruningOptions) -> dict[str, np.ndarray]:
    """Units to keep so that at most `goal` weights are left, those of least importance by weight gone first.

    Raises:
        ValueError: If even the least that must stay is more.
    """
    candidates = _candidates(layout, measured, options, goal / _num_parameters(layout.model))
    fewest, most = 0, len(candidates)
    smallest = _count(layout, _without(layout, measured, candidates))
    if smallest > goal:
        raise ValueError(
            f"Expected a target that leaves {', '.join(f'{count} {kind}' for kind, count in LEAST.items())} in every place, got "
            f"one of {goal:,} weights, where {smallest:,} is the least. Raise `target`, or allow more `kinds` than "
            f"{', '.join(options.kinds)}."
        )
    while fewest < most:
        middle = (fewest + most) // 2
        if _count(layout, _without(layout, measured, candidates[:middle])) <= goal:
            most = middle
        else:
            fewest = middle + 1
    return _without(layout, measured, candidates[:most])


def _candidates(layout: Any, measured: _Measured, options: PruningOptions, share: float) -> list[tuple[str, int]]:
    """Units that may go, as `(group, rank within it by importance)`, in the order in which they go.

    What a layer is worth is known for leaving out it alone. So of the layers, no larger part goes than of the weights, of which
    `share` stay, unless there is nothing else.
    """
    equal = _equal_groups(layout)
    found: list[tuple[float, str, int]] = []
    for name, group in layout.groups.items():
        if group.kind not in options.kinds or name in equal[1:]:
            continue
        names = equal if name in equal else [name]
        ranked = [np.sort(measured.importance[one]) for one in names]
        for rank in range(group.size - min(LEAST[group.kind], group.size)):
            worth = sum(float(one[rank]) for one in ranked) / (group.weights_each * len(names))
            is_last_resort = group.kind == "layers" and rank >= max(1, int(group.size * (1 - share)))
            found.append((math.inf if is_last_resort else worth, name, rank))
    return [(name, rank) for _, name, rank in sorted(found)]


def _without(layout: Any, measured: _Measured, candidates: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
    """Units left when these are gone. Ranks of a group come in order, for it is ordered by importance."""
    gone = dict.fromkeys(layout.groups, 0)
    equal = _equal_groups(layout)
    dropped: set[int] = set()
    for name, rank in candidates:
        if layout.groups[name].kind == "layers":
            layer = int(np.argsort(measured.importance[name])[rank])
            if layout.may_drop(layer, dropped):
                dropped.add(layer)
        else:
            for one in equal if name in equal else [name]:
                gone[one] = rank + 1
    keep = {}
    for name, group in layout.groups.items():
        order = np.argsort(measured.importance[name]) if name in measured.importance else np.arange(group.size)
        keep[name] = np.sort(order[gone[name] :])
    if "layers" in keep:
        keep["layers"] = np.array([layer for layer in range(layout.groups["layers"].size) if layer not in dropped])
    return keep


def _equal_groups(layout: Any) -> list[str]:
    return [name for name, group in layout.groups.items() if group.kind in layout.equal_kinds]


def _count(layout: Any, keep: dict[str, np.ndarray]) -> int:
    """Weights of the model with these units."""
    with torch.device("meta"):
        return _num_parameters(type(layout.model)(layout.config_for(keep)))


# ---- Repair and agreement


@dataclass
class _Aims:
    """What repair comes back to.

    Args:
        scores (`torch.Tensor` of shape `(W, L)`): Of the unpruned model.
        frames (`_FrameAims`, *optional*): Its frames, if every window gives as many.
    """

    scores: torch.Tensor
    frames: _FrameAims | None = None


@dataclass
class _FrameAims:
    """What goes into the transformer of an unpruned model and what comes out, side by side.

    Args:
        values (`torch.Tensor` of shape `(W, F, 2 D)`): In float16.
        deviation (`torch.Tensor` of shape `(2 D,)`): Of each channel over all frames.
    """

    values: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> _FrameAims:
        """Frames with their deviation measured."""
        return cls(values, values.float().flatten(0, 1).std(dim=0) + LEAST_DEVIATION)

    def distance(self, ours: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Mean square in deviations of the channels; 0 if a pruned model gives frames of another shape."""
        theirs = self.values[chosen].float()
        return ((ours - theirs) / self.deviation).square().mean() if ours.shape == theirs.shape else ours.new_zeros(())


@torch.no_grad()
def _aims(model: Any, windows: Sequence[np.ndarray]) -> _Aims:
    """What an unpruned model gives for windows."""
    layout, scores, frames = _Scores(model), [], []
    with _frames_of(model) as seen:
        for batch in _batches(model, windows, 2):
            seen.clear()
            scores.append(layout(batch))
            if seen:
                frames.append(torch.cat(seen, dim=2).half())
    if len({one.shape[1:] for one in frames}) != 1:  # none, or an encoder that gives as many as a batch is long
        return _Aims(torch.cat(scores))
    return _Aims(torch.cat(scores), _FrameAims.of(torch.cat(frames)))


@contextmanager
def _frames_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what goes into the last transformer of a model and what comes out, `(B, F, D)` each; nothing if it has none."""
    seen: list[torch.Tensor] = []
    transformer = find_transformer(model)
    modules = [] if transformer is None else [transformer.positions, transformer.pooling]
    handles = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float())) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _repair(model: Any, windows: Sequence[np.ndarray], aims: _Aims, options: PruningOptions, number: int) -> None:
    """Fine-tune a pruned model to the scores and frames of the unpruned one; norms stay as they are, as in evaluation."""
    if not options.repair_steps:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    warmup = math.ceil(WARMUP_SHARE * options.repair_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, options.repair_steps)
    rng = np.random.default_rng([options.seed, number])
    layout = _Scores(model)
    with _frames_of(model) as seen:
        for _ in range(options.repair_steps):
            chosen = torch.from_numpy(rng.choice(len(windows), min(options.batch_size, len(windows)), replace=False))
            seen.clear()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                scores = layout(_stacked(model, [windows[place] for place in chosen]))
            loss = F.smooth_l1_loss(scores.float(), aims.scores[chosen], beta=0.1)
            if aims.frames is not None and seen:
                loss = loss + aims.frames.distance(torch.cat(seen, dim=2), chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


class _Scores:
    """Scores of stacked windows by any model that can be pruned."""

    def __init__(self, model: Any):
        self._layout = _layout_of(model)(model)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self._layout.scores(batch)


@torch.inference_mode()
def _targets(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Scores `(W, L)` of windows."""
    scores = _Scores(model)
    return torch.cat([scores(batch) for batch in _batches(model, windows, 2)]).clone()


def _agreement(model: Any, windows: Sequence[np.ndarray], targets: torch.Tensor) -> dict[str, float]:
    """Correlation and distance between a model's scores and others, the mean over several scores."""
    scores = _targets(model, windows).numpy()
    found = [agreement(scores[:, column], targets[:, column].numpy()) for column in range(scores.shape[1])]
    return {name: float(np.mean([one[f"utt_{name}"] for one in found])) for name in ("lcc", "rmse")}


def _batches(model: Any, windows: Sequence[np.ndarray], batch_size: int) -> Iterator[torch.Tensor]:
    for first in range(0, len(windows), batch_size):
        yield _stacked(model, windows[first : first + batch_size])


def _stacked(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Windows as `(B, T)`; a short one is followed by zeros, as DistilledSQA pads, or begins again for an encoder."""
    longest = getattr(model.config, "window_samples", None) or max(map(len, windows))
    if getattr(model.config, "window_samples", None):
        return torch.from_numpy(np.stack([np.pad(one, (0, longest - len(one))) for one in windows]))
    return torch.from_numpy(np.stack([np.resize(one, longest) for one in windows]))


# ---- Calibration


def _windows_of_cache(cache: WindowCache, rate: int, num_windows: int) -> Calibration:
    if cache.sampling_rate != rate:
        raise ValueError(f"Expected windows at {rate} Hz, the rate of the model, got {cache.sampling_rate} Hz.")
    counts = {"validation": max(MIN_WINDOWS, round(num_windows * HELD_OUT_SHARE))}
    counts["train"] = max(MIN_WINDOWS, num_windows - counts["validation"])
    found: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for split, windows in found.items():
        for path in cache.shards(split):
            if len(windows) >= counts[split]:
                break
            shard = Shard.read(path)
            windows += [shard.waveform(place) for place, row in enumerate(shard.rows) if row["status"] == "ok"]
        del windows[counts[split] :]
    return Calibration(found["train"], found["validation"], rate)


def _windows_of_recordings(source: str | Path, rate: int, samples: int, num_windows: int, seed: int) -> Calibration:
    clips = folder_speech(source) if Path(source).is_dir() else _clips_of_table(source)
    pool = SpeechPool(clips, rate)
    by_clip: list[tuple[SpeechClip, list[np.ndarray]]] = []
    rng = np.random.default_rng(seed)
    for place in rng.permutation(len(clips)):
        clip = clips[place]
        try:
            waveform = load_recording(clip.path, sampling_rate=rate).waveform
        except (AudioError, OSError, RuntimeError) as error:
            pool.excluded[clip.name] = f"{error.code}: {error.message}" if isinstance(error, AudioError) else str(error)
            continue
        pieces = [waveform[start : start + samples] for start in range(0, max(1, len(waveform) - samples // 4), samples)]
        by_clip.append((clip, pieces))
        if sum(len(pieces) for _, pieces in by_clip) >= num_windows and len(by_clip) > 1:
            break
    if len(by_clip) < 2:
        raise ValueError(
            f"Expected two recordings or more to calibrate on, some to repair with and others to measure agreement, got "
            f"{len(by_clip)} in {str(source)!r}{f' ({len(pool.excluded)} cannot be read)' if pool.excluded else ''}."
        )
    talkers = list(dict.fromkeys(clip.talker for clip, _ in by_clip))
    side = {talker: place for place, talker in enumerate(talkers)}
    aside = max(1, round(len(talkers) * HELD_OUT_SHARE))
    if len(talkers) < 2:  # one talker: whole recordings are kept aside
        side, aside = {clip.name: place for place, (clip, _) in enumerate(by_clip)}, max(1, round(len(by_clip) * HELD_OUT_SHARE))
    held_out: list[np.ndarray] = []
    repair: list[np.ndarray] = []
    for clip, pieces in by_clip:
        (held_out if side.get(clip.talker, side.get(clip.name, 0)) < aside else repair).extend(pieces)
    wanted = max(MIN_WINDOWS, round(num_windows * HELD_OUT_SHARE))
    return Calibration(repair[: max(MIN_WINDOWS, num_windows - wanted)], held_out[:wanted], rate, dict(pool.excluded))


def _clips_of_table(source: str | Path) -> list[SpeechClip]:
    from hf_sqa.data import load_corpus

    rows = load_corpus(str(source))
    clips = []
    for number, row in enumerate(rows):
        audio = row["audio"]
        path = audio["path"] if isinstance(audio, dict) else audio
        talker, language = str(row.get("talker_id") or number), str(row.get("language") or "")
        clips.append(SpeechClip(str(path), str(path), talker, language, "train", 0))
    return clips


# ---- Keeping


class _Journal:
    """The steps in a folder: `step-01/` is a loadable model, `pruning.json` says which options and weights they are of."""

    def __init__(self, folder: str | Path | None, options: PruningOptions, num_parameters: int):
        self._folder = Path(folder) if folder is not None else None
        self._content: dict[str, Any] = {
            "options": json.loads(json.dumps(asdict(options))),
            "unpruned": num_parameters,
            "steps": [],
        }
        if self._folder is None or not (self._folder / REPORT).exists():
            return
        content = json.loads((self._folder / REPORT).read_text(encoding="utf-8"))
        if any(content.get(name) != self._content[name] for name in ("options", "unpruned")):
            raise ValueError(
                f"Expected {str(self._folder)!r} to be empty or to hold this pruning, got one with other options or of another "
                "model; choose another folder, or delete this one."
            )
        self._content = content

    @property
    def finished(self) -> list[PruningStep]:
        return [PruningStep(**step) for step in self._content["steps"]]

    def load(self, number: int, like: Any) -> Any:
        assert self._folder is not None
        model = type(like).from_pretrained(self._folder / f"step-{number + 1:02}").float().eval()
        # Tensors mapped from a file lie elsewhere in memory, for which other kernels may be chosen: copies go on bit by bit.
        return copy.deepcopy(model)

    def keep(self, number: int, step: PruningStep, model: Any) -> None:
        if self._folder is None:
            return
        folder = self._folder / f"step-{number + 1:02}"
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        self._content["steps"].append(asdict(step))
        write_whole(self._folder / REPORT, json.dumps(self._content, indent=1))


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as one whose gradient can be asked for, also where nothing before it is trainable."""
    return tensor if tensor.requires_grad else tensor.requires_grad_()


def _others(kept: torch.Tensor, size: int) -> torch.Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return torch.arange(size)[mask]


def _num_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def make_for_study(job: Any) -> dict[str, Any]:
    """What a study calls to prune: `maker: hf_sqa.pruning.prune:make_for_study`.

    `options` of the model are those of [`PruningOptions`] and `checkpoint` (the default model if not given), `calibration` and
    `num_windows` of [`load_calibration`]. The seed of the job is that of the repair.
    """
    from hf_sqa.auto import AutoModelForAudioQuality
    from hf_sqa.pipelines import resolve_checkpoint

    options = dict(job.options)
    if "calibration" not in options:
        raise ValueError(
            f"Expected `calibration` among the options of the model {job.model.name!r}, got {', '.join(options) or 'none'}."
        )
    model = AutoModelForAudioQuality.from_pretrained(resolve_checkpoint(options.pop("checkpoint", "default")))
    speech = load_calibration(options.pop("calibration"), model, options.pop("num_windows", NUM_WINDOWS))
    result = prune(model, speech, PruningOptions(**options, seed=job.seed), folder=job.folder / "steps")
    result.model.save_pretrained(job.folder)
    result.model.make_feature_extractor().save_pretrained(job.folder)
    (job.folder / REPORT).write_text(json.dumps(result.report(), indent=1), encoding="utf-8")
    shutil.rmtree(job.folder / "steps")
    last = result.steps[-1].after_repair if result.steps else {}
    return {
        "num_train": len(speech.repair),
        "num_validation": len(speech.held_out),
        "train_seconds": round(sum(step.seconds for step in result.steps), 2),
        **{f"with_unpruned_{name}": value for name, value in last.items()},
    }
