"""What an option may be, and what a misspelled word may have meant. No other package is imported: checkpoints can carry this."""

import difflib
from collections.abc import Iterable
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is none of the choices of an option."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(str, choices))}, got {value!r}.")


def did_you_mean(word: Any, known: Iterable[str], most: int = 1, *, likeness: float = 0.6, otherwise: str = ".") -> str:
    """The end of a sentence about an unknown word: `; did you mean 'mos'?`, or another end where nothing is near."""
    near = difflib.get_close_matches(str(word), list(known), n=most, cutoff=likeness)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else otherwise
