"""Convolutions of 3 by 3 with fewer multiplications than by definition, for scoring on a processor.

Winograd's algorithm takes 64 multiplications for 36 results that take 324 by definition (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). NNPACK has it, and most builds of torch contain NNPACK; `torch.nn.functional.conv2d`
does not call it for fewer than 16 images, nor where oneDNN is there.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from hf_sqa.blocks.plain_layers import is_plain


@functools.cache
def has_nnpack() -> bool:
    """Whether torch has NNPACK, and it runs on this processor. It has to be asked before its first use: asking starts it."""
    backend = getattr(torch.backends, "nnpack", None)
    return backend is not None and hasattr(torch, "_nnpack_spatial_convolution") and backend.is_available()


def conv3x3(layer: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """A convolution of 3 by 3 in steps of 1 with a zero on every side; where no gradient is wanted, the fastest way at hand.

    Args:
        layer (`nn.Conv2d`): The convolution; from about 32 channels on there is something to gain.
        hidden_states (`torch.Tensor` of shape `(B, C, H, W)`): Images.

    Returns:
        `torch.Tensor` of shape `(B, C', H, W)`: What the layer gives, up to about 2e-5 of the largest value.
    """
    if is_plain(layer) and is_plain_scoring(hidden_states):
        if has_nnpack():
            return torch._nnpack_spatial_convolution(hidden_states, layer.weight, layer.bias, (1, 1), (1, 1))
        # In this layout oneDNN takes two thirds of the time.
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
    return layer(hidden_states)


def is_plain_scoring(hidden_states: torch.Tensor) -> bool:
    """Whether these are numbers in float32 on a processor, of which neither a gradient nor a graph is wanted."""
    wanted = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return not wanted and hidden_states.device.type == "cpu" and hidden_states.dtype == torch.float32
