"""Convolutions of 3 by 3 with fewer multiplications than by definition, for scoring on a processor.

Winograd's algorithm takes 64 multiplications for 36 results that take 324 by definition (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). NNPACK has it, and most builds of torch contain NNPACK; `torch.nn.functional.conv2d`
does not call it for fewer than 16 images, nor where oneDNN is there. NNPACK knows no steps but 1; where only the rows are taken
one by one, the algorithm along them alone takes 8 multiplications for 6 results that take 18.

Shapes:   B images, C channels, H rows, W columns, N tiles of six rows
"""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from hf_sqa.blocks.layers import is_plain

#: Rows of results in a tile. Eight rows of the image make eight combinations of
#: them, those are convolved along the columns as products of matrices, and
#: combinations of what comes out are the six rows: polynomials of the paper at 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
TILE_ROWS = 6
OF_IMAGE = torch.tensor(
    [
        [1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0],
        [0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0],
        [0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0],
        [0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0],
        [0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0],
        [0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0],
        [0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0],
        [0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1],
    ]
)
OF_FILTER = torch.tensor(
    [
        [1, 0, 0],
        [-2 / 9, -2 / 9, -2 / 9],
        [-2 / 9, 2 / 9, -2 / 9],
        [1 / 90, 1 / 45, 2 / 45],
        [1 / 90, -1 / 45, 2 / 45],
        [32 / 45, 16 / 45, 8 / 45],
        [32 / 45, -16 / 45, 8 / 45],
        [0, 0, 1],
    ]
)
OF_PRODUCTS = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 1 / 2, -1 / 2, 0],
        [0, 1, 1, 4, 4, 1 / 4, 1 / 4, 0],
        [0, 1, -1, 8, -8, 1 / 8, -1 / 8, 0],
        [0, 1, 1, 16, 16, 1 / 16, 1 / 16, 0],
        [0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1],
    ]
)
#: Which product is part of every row once, so that the bias may be added there.
BIASED_PRODUCT = 1
#: Rows of the matrices that are multiplied together, for each channel and thread: the filters are worth loading for so many, and
#: they stay in the caches.
RESULTS_PER_CHANNEL = 2.5
#: Channels from which the algorithm along rows gains.
LEAST_CHANNELS = 32


@functools.cache
def has_nnpack() -> bool:
    """Whether torch has NNPACK, and it runs on this processor. It has to be asked before its first use: asking starts it."""
    backend = getattr(torch.backends, "nnpack", None)
    return backend is not None and hasattr(torch, "_nnpack_spatial_convolution") and backend.is_available()


def conv3x3(layer: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """A convolution of 3 by 3 in steps of 1 with a zero on every side; where no gradient is wanted, the fastest way at hand.

    Images `(B, C, H, W)` become what the layer gives, `(B, C', H, W)`, up to about 2e-5 of the largest value. From about 32
    channels on there is something to gain.
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


def row_filters(layer: nn.Conv2d) -> torch.Tensor | None:
    """What [`conv_along_rows`] needs of a convolution, `(8, 3 * C, C')`; `None` where it had better be computed by definition."""
    if not is_plain(layer) or layer.kernel_size != (3, 3) or layer.stride[0] != 1 or layer.groups != 1:
        return None
    if min(layer.in_channels, layer.out_channels) < LEAST_CHANNELS or not is_plain_scoring(layer.weight):
        return None
    filters = OF_FILTER @ layer.weight.permute(2, 3, 1, 0).flatten(1)
    return filters.view(len(OF_FILTER), -1, layer.out_channels)


class Memory:
    """Memory that is taken once and used again: for tensors of megabytes, fresh pages cost half as much as the products."""

    def __init__(self) -> None:
        self._parts: dict[str, torch.Tensor] = {}

    def take(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """A tensor with any values, of the type and place of another; it lasts until the name is taken again."""
        size = math.prod(shape)
        if name not in self._parts or self._parts[name].numel() < size:
            self._parts[name] = like.new_empty(size)
        return self._parts[name][:size].view(shape)


def conv_along_rows(
    images: torch.Tensor,
    filters: torch.Tensor,
    bias: torch.Tensor,
    column_step: int = 1,
    above: torch.Tensor | None = None,
    below: torch.Tensor | None = None,
    memory: Memory | None = None,
    results_name: str = "results",
) -> torch.Tensor:
    """A convolution of 3 by 3 whose rows are taken one by one, without zeros around: `(B, C, H, W)` to `(B, C', H', W')`.

    It gives what the layer gives, up to about 1e-5 of the largest value. Images in channels-last memory need not be copied, and
    such are the results. `filters` come from [`row_filters`]. `above` and `below`, `(B, C, 1 or 2, W)`, are further rows, for which
    the images are not copied; `H'`, two less than there are rows, is at least `TILE_ROWS`. A caller with several convolutions
    brings the memory, in which the results are called `results_name`.
    """
    (num_images, channels, _, width), num_combined = images.shape, len(OF_IMAGE)
    parts = [_flat_rows(part) for part in (above, images, below) if part is not None]
    height = sum(part.shape[1] for part in parts) - 2
    width_out = (width - 3) // column_step + 1
    memory = memory or Memory()
    results = memory.take(results_name, images, num_images, height, width_out, filters.shape[2])
    # The last tile may overlap the one before it: rows that both have come out twice.
    starts = sorted({*range(0, height - TILE_ROWS + 1, TILE_ROWS), height - TILE_ROWS})
    tiles = [(image, start) for image in range(num_images) for start in starts]
    together = max(1, min(len(tiles), int(RESULTS_PER_CHANNEL * channels * torch.get_num_threads()) // width_out))
    for first in range(0, len(tiles), together):
        block = tiles[first : first + together]
        combined = memory.take("combined", images, num_combined, len(block), width * channels)
        columns = memory.take("columns", images, num_combined, len(block), width_out, 3 * channels)
        products = memory.take("products", images, num_combined, len(block) * width_out, filters.shape[2])
        for number, (image, start) in enumerate(block):
            torch.mm(OF_IMAGE, _rows_of_tile([part[image] for part in parts], start), out=combined[:, number])
        columns.copy_(combined.unfold(2, 3 * channels, column_step * channels))
        torch.bmm(columns.flatten(1, 2), filters, out=products)
        products[BIASED_PRODUCT] += bias
        products_of_tiles = products.view(num_combined, len(block), -1)
        for number, (image, start) in enumerate(block):
            torch.mm(OF_PRODUCTS, products_of_tiles[:, number], out=results[image, start : start + TILE_ROWS].flatten(1))
    return results.permute(0, 3, 1, 2)


def _flat_rows(images: torch.Tensor) -> torch.Tensor:
    """Images `(B, C, H, W)` as `(B, H, W * C)`."""
    return images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(2)


def _rows_of_tile(parts: list[torch.Tensor], first: int) -> torch.Tensor:
    """Eight rows `(8, W * C)`, the first of them row `first`, of parts `(H, W * C)` that lie one below the other."""
    pieces, end = [], first + len(OF_IMAGE)
    for part in parts:
        if first < len(part) and end > 0:
            pieces.append(part[max(first, 0) : end])
        first, end = first - len(part), end - len(part)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
