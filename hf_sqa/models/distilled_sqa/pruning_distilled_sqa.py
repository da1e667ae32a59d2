"""The units that pruning can remove from a DistilledSQA."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.blocks.encoder_blocks import BlockParts
from hf_sqa.blocks.pruning_layout import Group, PruningLayout, all_but, with_gradient


class DistilledLayout(PruningLayout):
    """The units of a DistilledSQA: channels of its convolutions, heads, hidden units, and layers."""

    prefix = "transformer.layers."
    parts = BlockParts("self_attn", "fc1", "fc2", "layer_intermediate_sizes")

    def __init__(self, model: Any):
        super().__init__(model)
        config, transformer = self.config, model.transformer
        hidden_size, self.num_bins = config.hidden_size, config.conv_num_bins
        self.head_size: int = config.head_size or hidden_size // config.num_attention_heads
        self.layers = transformer.layers
        self.groups = {f"trunk.{index}": self._channels(index) for index in range(len(model.trunk.layers))}
        for index, layer in enumerate(transformer.layers):
            attention, units = layer.self_attn, layer.fc2.weight.square().sum(dim=0)
            heads = attention.out_proj.weight.square().sum(dim=0).view(-1, self.head_size).sum(dim=1)
            head_weights = 3 * self.head_size * (hidden_size + 1) + self.head_size * hidden_size
            self.groups[f"heads.{index}"] = Group("heads", attention.num_heads, head_weights, heads.detach())
            self.groups[f"units.{index}"] = Group("units", layer.fc1.out_features, 2 * hidden_size + 1, units.detach())
        pooling = transformer.pooling
        units = pooling.attention_score.weight.square().sum(dim=0)
        self.groups["pooling"] = Group("units", pooling.attention_hidden.out_features, hidden_size + 2, units.detach())
        layer_weights = sum(weight.numel() for weight in self.layers[0].parameters()) if len(self.layers) else 0
        self.groups["layers"] = Group("layers", len(self.layers), layer_weights)

    def _channels(self, index: int) -> Group:
        trunk, transformer = self.model.trunk, self.model.transformer
        weights = self._producer(index).weight[0].numel() + 1
        if index == len(trunk.layers) - 1:
            num_norms = 2 if transformer.feature_norm is not None else 1
            weights += (self.config.hidden_size + 2 * num_norms) * self.num_bins
            scale, _ = transformer.norms_as_affine()
            outgoing = (transformer.projection.weight * scale).square().sum(dim=0).view(self.num_bins, -1).sum(dim=0)
        else:
            following = trunk.layers[index + 1]
            weights += following.weight.numel() // following.weight.shape[1 if following.groups == 1 else 0]
            outgoing = following.weight.square().sum(dim=(0, 2, 3) if following.groups == 1 else (1, 2, 3))
            if str(index + 1) in trunk.mixes:
                mix = trunk.mixes[str(index + 1)]
                weights += 1 + mix.weight.shape[0]
                outgoing = outgoing * mix.weight.square().sum(dim=(0, 2, 3))
        return Group("channels", self.config.conv_channels[index], weights, outgoing.detach())

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model.score_windows(batch)

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        trunk = self.model.trunk
        activate, numbers = trunk.activation, itertools.count()
        with super().activations() as activations:

            def keep_channels(hidden_states: torch.Tensor) -> torch.Tensor:
                activations[f"trunk.{next(numbers)}"] = output = with_gradient(activate(hidden_states))
                return output

            trunk.activation = keep_channels
            try:
                yield activations
            finally:
                del trunk.activation

    def readers(self) -> dict[str, Any]:
        return super().readers() | {"pooling": self.model.transformer.pooling.attention_score}

    def by_unit(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(2).transpose(1, 2) if name.startswith("trunk.") else super().by_unit(name, values)

    def mean(self, name: str, activation: torch.Tensor) -> torch.Tensor:
        """See [`PruningLayout.mean`]; a value for each column of a head, and for each bin and channel of the last convolution."""
        if name == f"trunk.{len(self.model.trunk.layers) - 1}":
            return activation.mean(dim=(0, 2)).T.flatten()  # (B, C, F, K) to bin first
        if name.startswith("trunk."):
            return activation.mean(dim=(0, 2, 3))
        return super().mean(name, activation)

    def config_for(self, keep: dict[str, np.ndarray]) -> Any:
        layers = keep["layers"].tolist()
        options = self.config.changed_options() | {
            "conv_layer_channels": [len(keep[f"trunk.{index}"]) for index in range(self.config.num_conv_layers)],
            "num_hidden_layers": len(layers),
            "head_size": self.head_size,
            "layer_num_heads": [len(keep[f"heads.{index}"]) for index in layers],
            "layer_intermediate_sizes": [len(keep[f"units.{index}"]) for index in layers],
            "pooling_size": len(keep["pooling"]),
            "checkpoint_name": None,
        }
        return type(self.config)(**options)

    def cut_surroundings(
        self, state: dict[str, torch.Tensor], kept: Mapping[str, torch.Tensor], means: Mapping[str, torch.Tensor]
    ) -> None:
        trunk = self.model.trunk
        gone = {name: all_but(kept[name], self.groups[name].size) for name in kept if name.startswith("trunk.")}
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
        scale, shift = self.model.transformer.norms_as_affine()
        weight = state["transformer.projection.weight"]
        normed = (scale * means[f"trunk.{last}"] + shift)[lost]
        state["transformer.projection.bias"] += weight[:, lost] @ normed.detach()
        state["transformer.projection.weight"] = weight[:, columns]
        for norm in ("feature_norm", "projection_norm"):
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"transformer.{norm}.{part}" in state:
                    state[f"transformer.{norm}.{part}"] = state[f"transformer.{norm}.{part}"][columns]
        pooling = "transformer.pooling.attention"
        for part in ("weight", "bias"):
            state[f"{pooling}_hidden.{part}"] = state[f"{pooling}_hidden.{part}"][kept["pooling"]]
        state[f"{pooling}_score.weight"] = state[f"{pooling}_score.weight"][:, kept["pooling"]]

    def _producer(self, index: int) -> nn.Conv2d:
        trunk = self.model.trunk
        return trunk.mixes[str(index)] if str(index) in trunk.mixes else trunk.layers[index]
