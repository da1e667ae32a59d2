"""What pruning can remove from a model: groups of units, and the units of a transformer encoder inside a model."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from hf_sqa.blocks.encoder_blocks import HEADS_BY_BLOCK, BlockParts, blocks_of, parts_of
from hf_sqa.blocks.feature_cache import kept_features

#: Projections in a block's attention that give the values of its heads.
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass
class Group:
    """Units of one place in a model, such as the attention heads of one layer."""

    kind: str  # `"channels"`, `"units"`, `"heads"` or `"layers"`
    size: int  # Number of units
    weights_each: int  # Weights that disappear with one unit
    outgoing: torch.Tensor | None = None  # (size,): squared norm of the weights that read each unit; `None` for layers


class PruningLayout:
    """The units of a model, and how to build a smaller model from some of them; a family's `pruning_layout` returns it."""

    groups: dict[str, Group]  # Units that can be removed, by place; `"layers"` holds whole layers
    equal_kinds: tuple[str, ...] = ()  # Kinds whose groups must keep equally many units
    layers: Any  # The layers of the group `"layers"`
    prefix: str  # Prefix of the names of their tensors
    parts: BlockParts  # Names within a layer

    def __init__(self, model: Any):
        self.model, self.config = model, model.config

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer can be removed in addition to those in `dropped`."""
        return True

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Scores `(B, L)` of windows `(B, T)`, with gradients."""
        raise NotImplementedError

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        """Collect the activations of every group while scores are computed; units are the last axis of `(B, ..., size)`."""
        activations: dict[str, torch.Tensor] = {}
        readers = self.readers().items()
        handles = [module.register_forward_pre_hook(partial(_keep, activations, name)) for name, module in readers]
        try:
            yield activations
        finally:
            for handle in handles:
                handle.remove()

    def readers(self) -> dict[str, Any]:
        """Return, for every group, the module whose input is its activation; here for the groups in the layers."""
        readers = {f"units.{index}": layer.get_submodule(self.parts.narrowing) for index, layer in enumerate(self.layers)}
        for index in range(len(self.layers)):
            if f"heads.{index}" in self.groups:
                readers[f"heads.{index}"] = self._attention(index).out_proj
        return readers

    def by_unit(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Reshape values like a group's activation to `(B, positions, size)`; the width of a head counts as positions."""
        if self.groups[name].kind == "heads":
            values = values.unflatten(-1, (self.groups[name].size, -1)).transpose(-1, -2)
        return values.flatten(1, -2)

    def mean(self, name: str, activation: torch.Tensor) -> torch.Tensor:
        """Return the mean of a group's activation, in the form that [`pruned`] takes."""
        return activation.flatten(0, -2).mean(dim=0)

    def config_for(self, keep: Mapping[str, np.ndarray]) -> Any:
        """Return the configuration of a model with only these units."""
        raise NotImplementedError

    def pruned(self, keep: Mapping[str, np.ndarray], means: Mapping[str, torch.Tensor]) -> Any:
        """Return a new model with only the units whose indices `keep` has by group.

        The `means` of the activations of removed units are added to the biases of the layers that read them.
        """
        kept = {name: torch.from_numpy(np.asarray(places, np.int64)) for name, places in keep.items()}
        model = type(self.model)(self.config_for(keep))
        state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        blocks = {name: state.pop(name) for name in list(state) if name.startswith(self.prefix)}
        self.cut_surroundings(state, kept, means)
        for place, index in enumerate(self._kept_layers(keep)):
            before = f"{self.prefix}{index}."
            block = {name.removeprefix(before): tensor for name, tensor in blocks.items() if name.startswith(before)}
            self._cut_block(block, index, kept, means)
            state |= {f"{self.prefix}{place}.{name}": tensor for name, tensor in block.items()}
        model.load_state_dict(state)
        return model.eval()

    def cut_surroundings(
        self, state: dict[str, torch.Tensor], kept: Mapping[str, torch.Tensor], means: Mapping[str, torch.Tensor]
    ) -> None:
        """Hook: cut the tensors outside of the layers, in place."""

    def _cut_block(
        self, block: dict[str, torch.Tensor], index: int, kept: Mapping[str, torch.Tensor], means: Mapping[str, torch.Tensor]
    ) -> None:
        cut_between(block, [self.parts.widening], self.parts.narrowing, kept[f"units.{index}"], means[f"units.{index}"])
        if f"heads.{index}" in self.groups:
            width = self._attention(index).out_proj.in_features // self.groups[f"heads.{index}"].size
            columns = (kept[f"heads.{index}"][:, None] * width + torch.arange(width)).flatten()
            of_attention = [f"{self.parts.attention}.{name}" for name in (*PROJECTIONS, "out_proj")]
            cut_between(block, of_attention[:-1], of_attention[-1], columns, means[f"heads.{index}"])

    def _attention(self, index: int) -> Any:
        return self.layers[index].get_submodule(self.parts.attention)

    def _kept_layers(self, keep: Mapping[str, np.ndarray]) -> list[int]:
        return keep["layers"].tolist() if "layers" in keep else list(range(len(self.layers)))


class EncoderLayout(PruningLayout):
    """The units of the transformer encoder in a model: layers, attention heads, and hidden units, equally many in every layer.

    A pruned encoder is no longer the frozen one: the smaller model has `freeze_encoder=False`, and its repair trains the encoder.

    `layer_option` is the option of the model's configuration that names the layer, or the layers, whose output it uses.
    """

    equal_kinds = ("units",)
    prefix = "encoder.encoder.layers."

    def __init__(self, model: Any, layer_option: str, may_drop_layers: bool = True):
        super().__init__(model)
        self.layer_option = layer_option
        self.encoder_config = model.config.encoder_config
        self.layers = blocks_of(model.encoder)
        parts = parts_of(self.layers[0]) if len(self.layers) else None
        if parts is None:
            raise ValueError(
                f"Expected an encoder whose blocks have one feed-forward, as wav2vec 2.0, HuBERT, WavLM or Whisper, got "
                f"{self.encoder_config.model_type}, which cannot be pruned here."
            )
        self.parts, hidden = parts, self.encoder_config.hidden_size
        self.groups = {}
        for index, layer in enumerate(self.layers):
            narrowing: Any = layer.get_submodule(parts.narrowing)
            norms = narrowing.weight.detach().square().sum(dim=0)
            self.groups[f"units.{index}"] = Group("units", narrowing.in_features, 2 * hidden + 1, norms)
        self.has_heads = self.encoder_config.model_type in HEADS_BY_BLOCK
        for index in range(len(self.layers) if self.has_heads else 0):
            attention = self._attention(index)
            norms = attention.out_proj.weight.detach().square().sum(dim=0).view(-1, attention.head_dim).sum(dim=1)
            weights_each = sum(getattr(attention, name).weight[0].numel() for name in PROJECTIONS) + hidden
            self.groups[f"heads.{index}"] = Group("heads", attention.num_heads, weights_each * attention.head_dim, norms)
        if may_drop_layers:
            self.groups["layers"] = Group(
                "layers", len(self.layers), sum(weight.numel() for weight in self.layers[-1].parameters())
            )

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer can be removed: layers that the model reads must stay distinct, and WavLM's first holds positions."""
        if layer == 0 and self.encoder_config.model_type == "wavlm":
            return False
        return self._shifted_layers(dropped | {layer}) is not None

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        extractor = self.model.make_feature_extractor()
        inputs = extractor(list(batch.cpu().numpy()), sampling_rate=self.config.sampling_rate, return_tensors="pt").to(batch.device)
        return self.model(**{name: tensor for name, tensor in inputs.items() if name != "attention_mask"}).logits

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        with kept_features(None), super().activations() as activations:
            yield activations

    def config_for(self, keep: Mapping[str, np.ndarray]) -> Any:
        layers = self._kept_layers(keep)
        config = copy.deepcopy(self.config)
        config.score_intervals = None  # the pruned model makes other errors
        config.freeze_encoder = False
        setattr(config.encoder_config, self.parts.width_option, len(keep["units.0"]))
        config.encoder_config.num_hidden_layers = len(layers)
        if self.has_heads:
            config.encoder_config.layer_num_heads = [len(keep[f"heads.{index}"]) for index in layers]
        shifted = self._shifted_layers(set(range(len(self.layers))) - set(layers))
        if shifted:
            is_single = isinstance(getattr(config, self.layer_option), int)
            setattr(config, self.layer_option, shifted[0] if is_single else tuple(shifted))
        config.checkpoint_name = None
        return config

    def _shifted_layers(self, dropped: set[int]) -> list[int] | None:
        """Return the layers that the model reads, counted from 1, after removals; `None` if two coincide or one falls below 1."""
        layers = getattr(self.config, self.layer_option) or ()
        layers = [layers] if isinstance(layers, int) else layers
        shifted = [layer - sum(index < layer for index in dropped) for layer in layers]
        return shifted if all(layer >= 1 for layer in shifted) and len(set(shifted)) == len(shifted) else None


def with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as one that requires a gradient, even if nothing before it is trainable."""
    return tensor if tensor.requires_grad else tensor.requires_grad_()


def all_but(kept: torch.Tensor, size: int) -> torch.Tensor:
    """Return the indices below `size` that are not in `kept`."""
    places = torch.arange(size)
    return places[~torch.isin(places, kept)]


def cut_between(
    state: dict[str, torch.Tensor], writers: Sequence[str], reader: str, kept: torch.Tensor, means: torch.Tensor
) -> None:
    """Keep some of the values between linear layers; the means of the others are added to the bias of the layer that reads them."""
    removed = all_but(kept, state[f"{reader}.weight"].shape[1])
    state[f"{reader}.bias"] = state[f"{reader}.bias"] + state[f"{reader}.weight"][:, removed] @ means[removed]
    state[f"{reader}.weight"] = state[f"{reader}.weight"][:, kept]
    for name in writers:
        for part in ("weight", "bias"):
            if f"{name}.{part}" in state:  # Whisper's projections to keys have no bias
                state[f"{name}.{part}"] = state[f"{name}.{part}"][kept]


def _keep(activations: dict[str, torch.Tensor], name: str, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    activations[name] = with_gradient(inputs[0])
