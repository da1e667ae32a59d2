"""The transformer head of XLS-R-SQA and Distill-MOS: normalise, project, encode, pool by attention.

Paper:    Tamm et al., "Analysis of XLS-R for Speech Quality Assessment", WASPAA 2023, arXiv:2308.12077
Code:     https://github.com/lcn-kul/xls-r-analysis-sqa (MIT)
Differs:  in evaluation the batch norms are folded into the linear layers that follow them; same scores to rounding.
Shapes:   B batch, F frames, C input channels, D hidden size, H heads, L labels
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_torchdynamo_exporting

from hf_sqa.blocks.layers import is_plain


class SinusoidalPositions(nn.Module):
    """Sine and cosine positions with base `2 * num_frames` (the papers' choice; 10000 elsewhere)."""

    def __init__(self, num_frames: int, hidden_size: int):
        super().__init__()
        self.num_frames, self.hidden_size = num_frames, hidden_size
        self.register_buffer("table", self.formula())

    def formula(self) -> torch.Tensor:
        """Return the table of shape `(1, num_frames, hidden_size)`, computed in float32 on the CPU."""
        position = torch.arange(self.num_frames, dtype=torch.float32, device="cpu")[:, None]
        even = torch.arange(0, self.hidden_size, 2, dtype=torch.float32, device="cpu")
        angle = position * torch.exp(even * (-math.log(2 * self.num_frames) / self.hidden_size))
        table = torch.zeros(self.num_frames, self.hidden_size, dtype=torch.float32, device="cpu")
        table[:, 0::2], table[:, 1::2] = torch.sin(angle), torch.cos(angle)[:, : self.hidden_size // 2]
        return table[None]

    def reset_parameters(self) -> None:
        """Fill the table again by transformers' initialiser, which leaves loaded tensors alone."""
        init.copy_(self.table, self.formula())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.table


@dataclass
class LayerTrace:
    """Record of what the layers of a transformer compute on the way to the scores, as far as it is kept."""

    explicit: bool = False  # Compute attention weights explicitly instead of using the fused attention
    hidden_states: list[torch.Tensor] | None = None  # Takes what goes into the first layer, and the output of each
    attentions: list[torch.Tensor] | None = None  # Takes the weights of each layer

    @property
    def keeps_any(self) -> bool:
        """Whether anything was asked for."""
        return self.hidden_states is not None or self.attentions is not None

    def keep(self, hidden_states: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Keep what was asked for."""
        if self.hidden_states is not None:
            self.hidden_states.append(hidden_states)
        if self.attentions is not None and weights is not None:
            self.attentions.append(weights)

    def outputs(self) -> dict[str, tuple[torch.Tensor, ...] | None]:
        """Return the record as fields of an `AudioQualityOutput`."""
        kept = {"hidden_states": self.hidden_states, "attentions": self.attentions}
        return {name: None if tensors is None else tuple(tensors) for name, tensors in kept.items()}


def run_layers(
    layers: Iterable[nn.Module], hidden_states: torch.Tensor, frame_mask: torch.Tensor | None, trace: LayerTrace
) -> torch.Tensor:
    """Run frames `(B, F, D)` through all [`EncoderLayer`]s; `frame_mask` `(B, F)` is `True` on real frames."""
    trace.keep(hidden_states)
    for layer in layers:
        hidden_states, weights = layer(hidden_states, frame_mask, trace.explicit)
        trace.keep(hidden_states, weights)
    return hidden_states


class EncoderAttention(nn.Module):
    """Multi-head self-attention; no frame attends to masked frames."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.0, head_size: int | None = None):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.head_size = head_size or hidden_size // num_heads
        inner_size = num_heads * self.head_size
        self.q_proj = nn.Linear(hidden_size, inner_size)
        self.k_proj = nn.Linear(hidden_size, inner_size)
        self.v_proj = nn.Linear(hidden_size, inner_size)
        self.out_proj = nn.Linear(inner_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None, keep_weights: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map frames `(B, F, D)`, real where `frame_mask` `(B, F)` is `True`, to frames of that shape; also return the
        attention weights `(B, H, F, F)` if `keep_weights`.
        """
        batch_size, num_frames, _ = hidden_states.shape

        def split(projected: torch.Tensor) -> torch.Tensor:
            return projected.view(batch_size, num_frames, self.num_heads, self.head_size).transpose(1, 2)  # (B, H, F, D / H)

        query, key, value = (split(project(hidden_states)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mask = None if frame_mask is None else frame_mask[:, None, None, :]
        dropout, weights = self.dropout if self.training else 0.0, None
        if keep_weights:
            similarity = query @ key.transpose(2, 3) / math.sqrt(self.head_size)
            weights = (similarity if mask is None else similarity.masked_fill(~mask, float("-inf"))).softmax(dim=-1)
            context = F.dropout(weights, dropout) @ value
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2)), weights


class EncoderLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer with a ReLU feed-forward; its `forward` is called like that of [`EncoderAttention`]."""

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.0, head_size: int | None = None
    ):
        super().__init__()
        self.self_attn = EncoderAttention(hidden_size, num_heads, dropout, head_size)
        self.self_attn_norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.fc_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None, keep_weights: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.self_attn(hidden_states, frame_mask, keep_weights)
        hidden_states = self.self_attn_norm(hidden_states + self.dropout(attended))
        update = self.fc2(self.dropout(F.relu(self.fc1(hidden_states))))
        return self.fc_norm(hidden_states + self.dropout(update)), weights


class AttentionPooling(nn.Module):
    """Pooling that weights frames by a small network, sums them, and maps the sum to scores (NISQA's `PoolAttFF`)."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_labels: int):
        super().__init__()
        self.attention_hidden = nn.Linear(hidden_size, intermediate_size)
        self.attention_score = nn.Linear(intermediate_size, 1)
        self.score_head = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map frames `(B, F, D)`, real where `frame_mask` `(B, F)` is `True`, to scores `(B, L)`."""
        weights = self.attention_score(F.relu(self.attention_hidden(hidden_states)))  # (B, F, 1)
        if frame_mask is not None:
            weights = weights.masked_fill(~frame_mask[..., None], float("-inf"))
        pooled = (weights.softmax(dim=1) * hidden_states).sum(dim=1)  # (B, D)
        return self.score_head(pooled)


class SQATransformer(nn.Module):
    """Transformer from frames of any front end to raw scores: batch norms, projection, positions, encoder, attention pooling.

    The configuration of a DistilledSQA may set heads and widths layer by layer, and a width of the pooling.
    """

    def __init__(self, config: Any, input_size: int, normalize_features: bool = True):
        super().__init__()
        hidden_size, num_layers = config.hidden_size, config.num_hidden_layers
        # Fused features arrive normalised: each layer has its own norm before the mix.
        self.feature_norm = nn.BatchNorm1d(input_size) if normalize_features else None
        self.projection_norm = nn.BatchNorm1d(input_size)
        self.projection = nn.Linear(input_size, hidden_size)
        self.positions = SinusoidalPositions(config.num_frames, hidden_size)
        heads = getattr(config, "layer_num_heads", None) or [config.num_attention_heads] * num_layers
        widths = getattr(config, "layer_intermediate_sizes", None) or [config.intermediate_size] * num_layers
        head_size = getattr(config, "head_size", None)
        self.layers = nn.ModuleList(
            EncoderLayer(hidden_size, num_heads, width, config.dropout, head_size)
            for num_heads, width in zip(heads, widths, strict=True)
        )
        self.pooling_norm = nn.BatchNorm1d(hidden_size)
        pooling_size = getattr(config, "pooling_size", None) or config.intermediate_size
        self.pooling = AttentionPooling(hidden_size, pooling_size, config.num_labels)

    def forward(self, features: torch.Tensor, trace: LayerTrace | None = None) -> torch.Tensor:
        """Map exactly `num_frames` frames `(B, F, C)` to raw scores `(B, L)`, before any sigmoid."""
        return self.pooling(self.encode(features, trace))

    def encode(self, features: torch.Tensor, trace: LayerTrace | None = None) -> torch.Tensor:
        """Map frames `(B, F, C)` to encoded, normalised frames `(B, F, D)`."""
        # A graph keeps its norms separate: features on one scale, and the weights after them, survive quantisation to 8 bits.
        # A layer with an adapter keeps them separate too: folding reads its weight, which lacks what the adapter adds.
        if self.training or is_torchdynamo_exporting() or not is_plain(self.projection):
            if self.feature_norm is not None:
                features = batch_norm_over_channels(self.feature_norm, features)
            hidden_states = self.projection(batch_norm_over_channels(self.projection_norm, features))
        else:
            scale, shift = self.norms_as_affine()
            weight, bias = self.projection.weight, self.projection.bias
            hidden_states = F.linear(features, weight * scale, bias + weight @ shift)
        hidden_states = self.positions(hidden_states)  # (B, F, D)
        hidden_states = run_layers(self.layers, hidden_states, None, trace or LayerTrace())
        return batch_norm_over_channels(self.pooling_norm, hidden_states)

    def norms_as_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and shift, `(C,)` each, of the batch norms before the projection, in evaluation."""
        scale, shift = batch_norm_as_affine(self.projection_norm)
        if self.feature_norm is not None:
            first_scale, first_shift = batch_norm_as_affine(self.feature_norm)
            scale, shift = first_scale * scale, first_shift * scale + shift
        return scale, shift


def batch_norm_as_affine(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and shift, each of shape `(num_features,)`, that a batch norm applies in evaluation."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    return scale, norm.bias - norm.running_mean * scale  # type: ignore[operator]


def batch_norm_over_channels(norm: nn.BatchNorm1d, frames: torch.Tensor) -> torch.Tensor:
    """Normalise frames `(B, F, C)` over batch and time; a norm that is in evaluation or frozen is applied as an affine map.

    A frozen norm must not update its statistics: adapters such as LoRA do not save them, so scores would not survive saving.
    """
    if norm.training and norm.weight.requires_grad:
        return norm(frames.transpose(1, 2)).transpose(1, 2)
    scale, shift = batch_norm_as_affine(norm)
    return frames * scale + shift


def find_transformer(model: Any) -> SQATransformer | None:
    """Return the transformer over frames of a model; `None` for families without a transformer."""
    return next((module for module in model.modules() if isinstance(module, SQATransformer)), None)


@contextmanager
def watched_frames(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect input (after its projection) and output of a model's transformer, if any, call by call, `(B, F, D)` each."""
    seen: list[torch.Tensor] = []
    transformer = find_transformer(model)
    modules = [] if transformer is None else [transformer.positions, transformer.pooling]
    handles = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float())) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
