"""Whether a device computes in bfloat16 or emulates it several times as slowly as float32; and LSTMs that run on both."""

from __future__ import annotations

import timeit
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: How often each precision is measured; the fastest time counts, so that other work on the machine hardly matters.
NUM_MEASURED = 3


def computes_in_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether a device computes in bfloat16: an accelerator that says so, or a processor for which oneDNN has such kernels.

    On a processor, oneDNN decides by the instruction sets (AVX-512 with bfloat16, AMX), not by the processor's name; the variables
    `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA`, which limit them, count.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def run_lstm(lstm: nn.LSTM, inputs: Any, state: Any = None) -> Any:
    """Run an LSTM; in float32 under autocast on a processor that does not compute in bfloat16, where oneDNN has no LSTM for it."""
    on_processor = lstm.weight_ih_l0.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if on_processor and not computes_in_bfloat16():
        with torch.autocast("cpu", enabled=False):
            return lstm(inputs.float(), state)
    return lstm(inputs, state)


def run_both_ways(
    forward_lstm: nn.LSTM, backward_lstm: nn.LSTM, frames: torch.Tensor, lengths: torch.Tensor | None
) -> torch.Tensor:
    """Return the states `(B, F, 2 * D)` of two LSTMs, one from the start and one from the end of every row of `(B, F, C)`.

    Two modules, and rows reversed within their `lengths` `(B,)`, replace packed sequences and export to ONNX.
    """
    ahead, _ = run_lstm(forward_lstm, frames)
    back, _ = run_lstm(backward_lstm, reverse_rows(frames, lengths))
    return torch.cat([ahead, reverse_rows(back, lengths)], dim=-1)


def reverse_rows(frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Reverse each row of `(B, F, D)` within its own length; padding stays at the end."""
    if lengths is None:
        return frames.flip(1)
    position = torch.arange(frames.shape[1], device=frames.device)
    index = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return frames.gather(1, index[..., None].expand(-1, -1, frames.shape[2]))


def bfloat16_slowdown(device: torch.device | str = "cpu") -> float:
    """Measure how many times as long a convolution takes in bfloat16 as in float32; this takes a tenth of a second."""
    inputs = torch.randn(4, 32, 64, 64, device=device)
    filters = torch.randn(32, 32, 3, 3, device=device)

    def seconds(dtype: torch.dtype) -> float:
        tensors = inputs.to(dtype), filters.to(dtype)
        F.conv2d(*tensors)  # the first run chooses the kernel
        return min(timeit.repeat(lambda: F.conv2d(*tensors), number=1, repeat=NUM_MEASURED))

    with torch.inference_mode():
        return seconds(torch.bfloat16) / seconds(torch.float32)


def warn_if_emulated(dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Warn about bfloat16 on a processor that does not compute in it, with the measured factor."""
    if dtype == torch.bfloat16 and torch.device(device).type == "cpu" and not computes_in_bfloat16(device):
        warnings.warn(
            f"This processor does not compute in bfloat16: a convolution takes {bfloat16_slowdown(device):.1f} times as long as in "
            "float32. Use float32 here.",
            UserWarning,
            stacklevel=3,
        )
