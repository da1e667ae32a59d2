"""Linear layers, convolutions and LSTMs: how torch starts their weights, and whether the weights are all that they are."""

import math

from torch import nn
from transformers import initialization as init


def is_plain(layer: nn.Module) -> bool:
    """Whether weight and bias are all that a linear layer or a convolution is.

    One that an adapter wraps is not: its `weight` is that of the base, and only a call adds what the adapter learned. Such a layer
    also hides attributes such as `stride` and `padding`.
    """
    return type(layer) in (nn.Linear, nn.Conv2d)


def start_as_torch(module: nn.Module) -> None:
    """Draw weights and biases of a linear layer, a convolution or an LSTM as torch does, in place; the originals start so.

    They are uniform within one over the root of what a unit reads, or of the LSTM's width. transformers' initialisers, by which
    they are drawn, leave weights alone that were loaded.
    """
    size = module.hidden_size if isinstance(module, nn.LSTM) else module.weight[0].numel()
    bound = 1 / math.sqrt(size)
    for parameter in module.parameters(recurse=False):
        init.uniform_(parameter, -bound, bound)
