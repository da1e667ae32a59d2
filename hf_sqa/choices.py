"""Checks values of options, and suggests words for misspelled ones. Imports no other package, so that checkpoints can carry it."""

import difflib
from collections.abc import Iterable
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise an error for a value that is none of an option's choices."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(str, choices))}, got {value!r}.")


def did_you_mean(word: Any, known: Iterable[str], most: int = 1, *, likeness: float = 0.6, otherwise: str = ".") -> str:
    """Return the end of a sentence about an unknown word: `; did you mean 'mos'?`, or `otherwise` if no known word is similar."""
    near = difflib.get_close_matches(str(word), list(known), n=most, cutoff=likeness)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else otherwise
