"""Refusal of weights that are not whole: missing ones would be random, and so would the scores; NaN would spread to all of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

#: Number of tensors of each kind that an error names.
MAX_NAMED = 3


def refuse_partial_weights(
    name: str,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[tuple[str, Any, Any]] = (),
    remedy: str = "get the files again, or save the model again with `save_pretrained`. To train new layers, pass "
    "`ignore_mismatched_sizes=True`",
) -> None:
    """Refuse a file of weights that does not fit the model exactly; `remedy` says what to do then."""
    differences = {
        "missing": sorted(missing),
        "unexpected": sorted(unexpected),
        "of another shape": [
            f"{key} {tuple(in_file)} for {tuple(expected)}"
            for key, in_file, expected in sorted(mismatched, key=lambda entry: entry[0])
        ],
    }
    shown = [
        f"{kind}: {', '.join(keys[:MAX_NAMED])}" + (f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else "")
        for kind, keys in differences.items()
        if keys
    ]
    if shown:
        raise ValueError(
            f"The weights in {name!r} do not fit the configuration ({'; '.join(shown)}), so the scores would be wrong: {remedy}."
        )


def refuse_weights_not_finite(name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are NaN or infinite, as a training that diverged leaves them: no score would be a number."""
    for key, tensor in weights.items():
        # The extremes are NaN if any value is, and take a thirtieth of the time of a look at each value.
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not tensor.is_meta
            and not torch.stack(tensor.aminmax()).isfinite().all()
        ):
            raise ValueError(
                f"The weights in {name!r} are not all numbers ({key} holds NaN or infinity), so no score would be one: get the "
                "files again, or use a checkpoint from before the training diverged."
            )
