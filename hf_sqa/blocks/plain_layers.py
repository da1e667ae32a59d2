"""Whether a layer may be computed from its weights, in a faster form than its own, or has to be called."""

from torch import nn


def is_plain(layer: nn.Module) -> bool:
    """Whether weight and bias are all that a linear layer or a convolution is.

    One that an adapter wraps is not: its `weight` is that of the base, and only a call adds what the adapter learned. Such a layer
    also hides attributes such as `stride` and `padding`.
    """
    return type(layer) in (nn.Linear, nn.Conv2d)
