"""What pruning can remove from a model: groups of units, and the units of a transformer encoder inside a model."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Group:
    """Units of one place in a model, such as the attention heads of one layer.

    Args:
        kind (`str`): `"channels"`, `"units"`, `"heads"` or `"layers"`.
        size (`int`): Number of units.
        weights_each (`int`): Weights that disappear with one unit.
        outgoing (`torch.Tensor` of shape `(size,)`, *optional*): Squared norm of the weights that read each unit; none for layers.
    """

    kind: str
    size: int
    weights_each: int
    outgoing: torch.Tensor | None = None


class PruningLayout:
    """The units of a model, and how to build a smaller model from some of them. A family's `pruning_layout` returns one.

    Attributes:
        groups (`dict[str, Group]`): Units that can be removed, by place; `"layers"` holds whole layers.
        equal_kinds (`tuple[str, ...]`): Kinds whose groups must keep equally many units.
        layers (`nn.ModuleList`): The layers of the group `"layers"`.
    """

    groups: dict[str, Group]
    equal_kinds: tuple[str, ...] = ()
    layers: Any

    def __init__(self, model: Any):
        self.model, self.config = model, model.config

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer can be removed beside others that are."""
        return True

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Scores `(B, L)` of windows `(B, T)`, with gradients."""
        raise NotImplementedError

    @contextmanager
    def activations(self) -> Iterator[dict[str, torch.Tensor]]:
        """Collect the activations of every group while scores are computed, units last: `(B, ..., size)`."""
        activations: dict[str, torch.Tensor] = {}
        handles = []
        for name, module in self.readers().items():
            handles.append(module.register_forward_pre_hook(_keep(activations, name)))
        try:
            yield activations
        finally:
            for handle in handles:
                handle.remove()

    def readers(self) -> Mapping[str, Any]:
        """For every group, the module whose input is its activation."""
        raise NotImplementedError

    def by_unit(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Values in the shape of a group's activation as `(B, positions, size)`."""
        return values.flatten(1, -2)

    def mean(self, name: str, activation: torch.Tensor) -> torch.Tensor:
        """The mean of a group's activation, as [`pruned`] takes it."""
        return activation.flatten(0, -2).mean(dim=0)

    def config_for(self, keep: Mapping[str, np.ndarray]) -> Any:
        """The configuration of a model with these units only."""
        raise NotImplementedError

    def pruned(self, keep: Mapping[str, np.ndarray], means: Mapping[str, torch.Tensor]) -> Any:
        """A new model with these units only.

        Args:
            keep (mapping of `str` to `np.ndarray`): Indices of the units to keep, by group.
            means (mapping of `str` to `torch.Tensor`): Means of the activations; those of removed units go into the biases behind
                them.
        """
        raise NotImplementedError


class EncoderLayout(PruningLayout):
    """The units of the transformer encoder inside a model: layers, and hidden units, equally many in every layer.

    Args:
        model: A model with an `encoder` of transformers.
        layer_option (`str`): The option of its configuration that names the layer, or the layers, whose output it uses.
        may_drop_layers (`bool`, *optional*, defaults to `True`): Whether whole layers can be removed.

    Raises:
        ValueError: If the blocks of the encoder have no feed-forward that can be cut.
    """

    equal_kinds = ("units",)

    def __init__(self, model: Any, layer_option: str, may_drop_layers: bool = True):
        super().__init__(model)
        self.layer_option = layer_option
        self.encoder_config = model.config.encoder_config
        self.layers = getattr(getattr(model.encoder, "encoder", None), "layers", ())
        forwards: list[Any] = [getattr(layer, "feed_forward", None) for layer in self.layers]
        if not forwards or any(not hasattr(forward, "intermediate_dense") for forward in forwards):
            raise ValueError(
                f"Expected an encoder whose blocks have one feed-forward, as wav2vec 2.0, HuBERT or WavLM, got "
                f"{self.encoder_config.model_type}, which cannot be pruned here."
            )
        width, hidden = forwards[0].intermediate_dense.out_features, self.encoder_config.hidden_size
        outgoing = [forward.output_dense.weight.detach().square().sum(dim=0) for forward in forwards]
        self.groups = {f"units.{index}": Group("units", width, 2 * hidden + 1, norms) for index, norms in enumerate(outgoing)}
        if may_drop_layers:
            self.groups["layers"] = Group(
                "layers", len(self.layers), sum(weight.numel() for weight in self.layers[-1].parameters())
            )

    def may_drop(self, layer: int, dropped: set[int]) -> bool:
        """Whether a layer can be removed: each layer that the model reads must remain one, and WavLM's first holds positions."""
        if layer == 0 and self.encoder_config.model_type == "wavlm":
            return False
        return self._shifted_layers(dropped | {layer}) is not None

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        extractor = self.model.make_feature_extractor()
        inputs = extractor(list(batch.cpu().numpy()), sampling_rate=self.config.sampling_rate, return_tensors="pt").to(batch.device)
        return self.model(**{name: tensor for name, tensor in inputs.items() if name != "attention_mask"}).logits

    def readers(self) -> dict[str, Any]:
        return {f"units.{index}": layer.feed_forward.output_dense for index, layer in enumerate(self.layers)}

    def pruned(self, keep: Mapping[str, np.ndarray], means: Mapping[str, torch.Tensor]) -> Any:
        kept_layers = self._kept_layers(keep)
        model = type(self.model)(self.config_for(keep))
        state: dict[str, torch.Tensor] = {}
        for name, tensor in self.model.state_dict().items():
            if not name.startswith("encoder.encoder.layers."):
                state[name] = tensor.detach().clone()
                continue
            _, _, _, number, rest = name.split(".", 4)
            index = int(number)
            if index not in kept_layers:
                continue
            units = torch.from_numpy(np.asarray(keep[f"units.{index}"], np.int64))
            removed = all_but(units, self.groups[f"units.{index}"].size)
            if rest.startswith("feed_forward.intermediate_dense."):
                tensor = tensor[units]
            elif rest == "feed_forward.output_dense.bias":
                weight = self.layers[index].feed_forward.output_dense.weight
                tensor = tensor + weight[:, removed] @ means[f"units.{index}"][removed]
            elif rest == "feed_forward.output_dense.weight":
                tensor = tensor[:, units]
            state[f"encoder.encoder.layers.{kept_layers.index(index)}.{rest}"] = tensor.detach().clone()
        model.load_state_dict(state)
        return model.eval()

    def config_for(self, keep: Mapping[str, np.ndarray]) -> Any:
        layers = self._kept_layers(keep)
        config = copy.deepcopy(self.config)
        config.score_intervals = None  # its errors will be others
        config.encoder_config.intermediate_size = len(keep["units.0"])
        config.encoder_config.num_hidden_layers = len(layers)
        shifted = self._shifted_layers(set(range(len(self.layers))) - set(layers))
        if shifted:
            is_single = isinstance(getattr(config, self.layer_option), int)
            setattr(config, self.layer_option, shifted[0] if is_single else tuple(shifted))
        config.checkpoint_name = None
        return config

    def _kept_layers(self, keep: Mapping[str, np.ndarray]) -> list[int]:
        return keep["layers"].tolist() if "layers" in keep else list(range(len(self.layers)))

    def _shifted_layers(self, dropped: set[int]) -> list[int] | None:
        """The layers that the model reads, counted from 1, once some are removed; `None` if two coincide or none is left."""
        layers = getattr(self.config, self.layer_option) or ()
        layers = [layers] if isinstance(layers, int) else layers
        shifted = [layer - sum(index < layer for index in dropped) for layer in layers]
        return shifted if all(layer >= 1 for layer in shifted) and len(set(shifted)) == len(shifted) else None


def with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as one whose gradient can be asked for, also where nothing before it is trainable."""
    return tensor if tensor.requires_grad else tensor.requires_grad_()


def all_but(kept: torch.Tensor, size: int) -> torch.Tensor:
    """The indices below `size` that are not among those kept."""
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return torch.arange(size)[mask]


def _keep(activations: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        activations[name] = with_gradient(inputs[0])

    return keep
