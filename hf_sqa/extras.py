"""What is said where an extra of the package is missing, in the same words everywhere; `docs/install.md` has the table."""

from __future__ import annotations


def needs_extra(what: str, extra: str, instead: str = "") -> str:
    """The sentence of an error about packages that are not installed, such as `("A table", "corpus", "take .csv or .jsonl")`."""
    return f"{what} needs the extra `{extra}`: `pip install 'hf-sqa[{extra}]'`{f'; or {instead}' if instead else ''}."
