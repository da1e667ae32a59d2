"""3×3 convolutions with fewer multiplications than the direct algorithm, for scoring on a processor.

Winograd's algorithm needs 64 multiplications for 36 results, the direct algorithm 324 (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). NNPACK has it, and most builds of torch contain NNPACK; `torch.nn.functional.conv2d`
does not call it for fewer than 16 images, nor if oneDNN is available. NNPACK supports stride 1 only; with another stride along
columns, the algorithm along rows alone needs 8 multiplications for 6 results instead of 18.

Shapes:   B images, C channels, H rows, W columns, N tiles of six rows
"""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from hf_sqa.blocks.layers import is_plain

#: Rows of results in a tile. Eight rows of the image are combined into eight others, these are convolved along the columns
#: by products of matrices, and combinations of the products are the six rows. The paper's polynomials are at
#: 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
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
#: Product that enters every row with factor 1, so that the bias may be added to it.
BIASED_PRODUCT = 1
#: Rows of the matrices that are multiplied together, per channel and thread: enough to be worth loading the filters for, and
#: few enough to stay in the caches.
RESULTS_PER_CHANNEL = 2.5
#: Number of channels from which the algorithm along rows is faster.
LEAST_CHANNELS = 32


@functools.cache
def has_nnpack() -> bool:
    """Whether torch has NNPACK and it runs on this processor. Call this before the first use of NNPACK: it initialises it."""
    backend = getattr(torch.backends, "nnpack", None)
    return backend is not None and hasattr(torch, "_nnpack_spatial_convolution") and backend.is_available()


def conv3x3(layer: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """Run a 3×3 convolution with stride 1 and one zero on every side; without gradients, in the fastest way available.

    The result for images `(B, C, H, W)`, `(B, C', H, W)`, is that of the layer up to about 2e-5 of the largest value. It is faster
    from about 32 channels on.
    """
    if is_plain(layer) and is_plain_scoring(hidden_states):
        if has_nnpack():
            return torch._nnpack_spatial_convolution(hidden_states, layer.weight, layer.bias, (1, 1), (1, 1))
        # In this layout oneDNN takes two thirds of the time.
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
    return layer(hidden_states)


def is_plain_scoring(hidden_states: torch.Tensor) -> bool:
    """Whether a tensor is float32 on a processor, and neither a gradient nor a graph of it is wanted."""
    wanted = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return not wanted and hidden_states.device.type == "cpu" and hidden_states.dtype == torch.float32


def row_filters(layer: nn.Conv2d) -> torch.Tensor | None:
    """Return a convolution's filters for [`conv_along_rows`], `(8, 3 * C, C')`; `None` if the direct algorithm is better."""
    if not is_plain(layer) or layer.kernel_size != (3, 3) or layer.stride[0] != 1 or layer.groups != 1:
        return None
    if min(layer.in_channels, layer.out_channels) < LEAST_CHANNELS or not is_plain_scoring(layer.weight):
        return None
    filters = OF_FILTER @ layer.weight.permute(2, 3, 1, 0).flatten(1)
    return filters.view(len(OF_FILTER), -1, layer.out_channels)


class Memory:
    """Memory that is allocated once and used again: for tensors of megabytes, fresh pages cost half as much as the products."""

    def __init__(self) -> None:
        self._parts: dict[str, torch.Tensor] = {}

    def take(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """Return an uninitialised tensor with the type and device of `like`; it is valid until the name is taken again."""
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
    """Run a 3×3 convolution with row stride 1 and without padding: `(B, C, H, W)` to `(B, C', H', W')`.

    The result is that of the layer up to about 1e-5 of the largest value. Images in channels-last memory need not be copied, and
    the result has that layout. `filters` come from [`row_filters`]. `above` and `below`, `(B, C, 1 or 2, W)`, are further rows, for
    which the images are not copied; `H'`, the number of all rows less two, is at least `TILE_ROWS`. A caller with several
    convolutions passes `memory`, in which the results are called `results_name`.
    """
    (num_images, channels, _, width), num_combined = images.shape, len(OF_IMAGE)
    parts = [_flat_rows(part) for part in (above, images, below) if part is not None]
    height = sum(part.shape[1] for part in parts) - 2
    width_out = (width - 3) // column_step + 1
    memory = memory or Memory()
    results = memory.take(results_name, images, num_images, height, width_out, filters.shape[2])
    # The last tile may overlap the one before it; rows in both are computed twice.
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
    """Return images `(B, C, H, W)` as `(B, H, W * C)`."""
    return images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(2)


def _rows_of_tile(parts: list[torch.Tensor], first: int) -> torch.Tensor:
    """Return eight rows `(8, W * C)`, the first of them row `first`, of parts `(H, W * C)` that lie one below the other."""
    pieces, end = [], first + len(OF_IMAGE)
    for part in parts:
        if first < len(part) and end > 0:
            pieces.append(part[max(first, 0) : end])
        first, end = first - len(part), end - len(part)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
