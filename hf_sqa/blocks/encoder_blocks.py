"""The blocks of transformers' speech encoders: where their attention and feed-forward are, and attention with fewer heads.

transformers' configurations have one number of heads for all blocks. The `encoder_config` of a pruned encoder also has
`layer_num_heads`, the number of heads in every block. Heads keep their width, so projections become narrower than the block.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

#: Encoders whose attention takes its number of heads from its projections. WavLM's and Conformer's add positions head by head.
HEADS_BY_BLOCK = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "whisper")


@dataclass(frozen=True)
class BlockParts:
    """Names of the modules in a block."""

    attention: str  # The attention, with `q_proj`, `k_proj`, `v_proj` and `out_proj`
    widening: str  # This and `narrowing` are the two linear layers of the feed-forward
    narrowing: str
    width_option: str  # Option of the encoder's configuration for the width between them


WAV2VEC2_PARTS = BlockParts("attention", "feed_forward.intermediate_dense", "feed_forward.output_dense", "intermediate_size")
WHISPER_PARTS = BlockParts("self_attn", "fc1", "fc2", "encoder_ffn_dim")


def blocks_of(encoder: PreTrainedModel) -> Any:
    """Return the blocks of an encoder; empty if they are not where wav2vec 2.0 and Whisper have them."""
    return getattr(getattr(encoder, "encoder", None), "layers", ())


def parts_of(block: nn.Module) -> BlockParts | None:
    """Return the names of a block's parts; `None` for a block with another feed-forward, such as Conformer's two."""
    for parts in (WAV2VEC2_PARTS, WHISPER_PARTS):
        try:
            block.get_submodule(parts.widening)
        except AttributeError:
            continue
        return parts
    return None


def check_heads(encoder_config: PreTrainedConfig) -> None:
    """Refuse `layer_num_heads` that do not fit the encoder."""
    heads = getattr(encoder_config, "layer_num_heads", None)
    if heads is None:
        return
    most, count = encoder_config.num_attention_heads, encoder_config.num_hidden_layers
    if encoder_config.model_type not in HEADS_BY_BLOCK:
        raise ValueError(
            f"Expected `layer_num_heads` in `encoder_config` of one of {', '.join(HEADS_BY_BLOCK)}, got it for "
            f"{encoder_config.model_type}, whose attention adds positions head by head."
        )
    if len(heads) != count or not all(isinstance(number, int) and 1 <= number <= most for number in heads):
        raise ValueError(
            f"Expected `layer_num_heads` in `encoder_config`: {count} numbers from 1 to {most}, one for each block, got {heads}."
        )


def narrow_attention(encoder: PreTrainedModel, num_heads: list[int] | None) -> None:
    """Give the attention of every block its number of heads; load weights afterwards. `None` leaves the encoder as it is."""
    if num_heads is None:
        return
    for block, count in zip(blocks_of(encoder), num_heads, strict=True):
        parts = parts_of(block)
        assert parts is not None
        attention: Any = block.get_submodule(parts.attention)
        width = count * attention.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            whole = getattr(attention, name)
            setattr(attention, name, nn.Linear(whole.in_features, width, bias=whole.bias is not None))
        attention.out_proj = nn.Linear(width, attention.out_proj.out_features)
        attention.num_heads = count
