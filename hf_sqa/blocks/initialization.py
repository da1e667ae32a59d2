"""Torch's own random start of a layer, which the originals have; transformers' is a narrow normal."""

import math

from torch import nn
from transformers import initialization as init


def start_as_torch(module: nn.Module) -> None:
    """Draw weights and biases of a linear layer, a convolution or an LSTM, in place.

    They are uniform within one over the root of what a unit reads, or of the LSTM's width. transformers' initialisers, by which
    they are drawn, leave weights alone that were loaded.
    """
    size = module.hidden_size if isinstance(module, nn.LSTM) else module.weight[0].numel()
    bound = 1 / math.sqrt(size)
    for parameter in module.parameters(recurse=False):
        init.uniform_(parameter, -bound, bound)
