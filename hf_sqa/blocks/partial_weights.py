"""Weights that are not exactly those of a model: what is missing would be random, and so would the scores."""

from collections.abc import Iterable
from typing import Any

#: Tensors that an error names of each kind.
MAX_NAMED = 3


def refuse_partial_weights(
    name: str,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[tuple[str, Any, Any]] = (),
    remedy: str = "get the files anew, or save the model again with `save_pretrained`. To train new layers, pass "
    "`ignore_mismatched_sizes=True`",
) -> None:
    """Stop where a file of weights is not exactly that of the model; `remedy` says what to do then."""
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
