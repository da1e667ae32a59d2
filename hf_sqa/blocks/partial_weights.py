"""Refusal of weights that do not fit a model exactly: missing ones would be random, and so would the scores."""

from collections.abc import Iterable
from typing import Any

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
