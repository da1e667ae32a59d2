"""Linear layers, convolutions and LSTMs: torch's initial weights, and whether a layer is only its weights."""

import math

from torch import nn
from transformers import initialization as init


def is_plain(layer: nn.Module) -> bool:
    """Whether a linear layer or a convolution consists of weight and bias alone.

    A layer that an adapter wraps does not: its `weight` is that of the base, and only a call adds what the adapter learned. It also
    hides attributes such as `stride` and `padding`.
    """
    return type(layer) in (nn.Linear, nn.Conv2d)


def start_as_torch(module: nn.Module) -> None:
    """Initialise a linear layer, a convolution or an LSTM in place as torch does; the original models start this way.

    Values are uniform within plus or minus 1 / sqrt(inputs of a unit), for an LSTM 1 / sqrt(width). transformers' initialisers,
    which draw them, leave loaded weights alone.
    """
    size = module.hidden_size if isinstance(module, nn.LSTM) else module.weight[0].numel()
    bound = 1 / math.sqrt(size)
    for parameter in module.parameters(recurse=False):
        init.uniform_(parameter, -bound, bound)
