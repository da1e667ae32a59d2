"""Packages of the extras, and what is said where one is missing, in the same words everywhere; `docs/install.md` has the table."""

from __future__ import annotations

import importlib
from typing import Any


def needs_extra(what: str, extra: str, instead: str = "") -> str:
    """The sentence of an error about packages that are not installed, such as `("A table", "corpus", "take .csv or .jsonl")`."""
    return f"{what} needs the extra `{extra}`: `pip install 'hf-sqa[{extra}]'`{f'; or {instead}' if instead else ''}."


def import_extra(package: str, what: str, extra: str, instead: str = "", error: type[Exception] = ImportError) -> Any:
    """Import a package of an extra; where it is missing, raise an error that says which extra has it."""
    try:
        return importlib.import_module(package)
    except ImportError as cause:
        raise error(needs_extra(what, extra, instead)) from cause
