"""What pruning can take out of a DistilledSQA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.blocks.pruning_layout import Group, all_but, with_gradient
from hf_sqa.blocks.sqa_transformer import batch_norm_as_affine

#: What a configuration holds beside its options.
NOT_OPTIONS = ("architectures", "transformers_version", "model_type", "dtype", "label2id", "num_labels", "_name_or_path")


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
            output = with_gradient(activate(hidden_states))
            found[f"trunk.{sum(name.startswith('trunk.') for name in found)}"] = output
            return output

        def see(name: str) -> Any:
            return lambda _, inputs: found.__setitem__(name, with_gradient(inputs[0]))

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
        gone = {name: all_but(places, self.groups[name].size) for name, places in kept.items()}
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
