"""What pruning can take out of a model: groups of units, and the units of a transformer encoder inside a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


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
            return lambda _, inputs: found.__setitem__(name, with_gradient(inputs[0]))

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
            lost = all_but(units, self.groups[f"units.{index}"].size)
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


def with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as one whose gradient can be asked for, also where nothing before it is trainable."""
    return tensor if tensor.requires_grad else tensor.requires_grad_()


def all_but(kept: torch.Tensor, size: int) -> torch.Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return torch.arange(size)[mask]
