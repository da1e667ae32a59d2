"""Imports packages of the extras, with one message for all that are missing; `docs/install.md` has the table of extras."""

from __future__ import annotations

import importlib
from typing import Any


def needs_extra(what: str, extra: str, instead: str = "") -> str:
    """Message about packages that are not installed; arguments such as `("A table", "corpus", "take .csv or .jsonl")`."""
    return f"{what} needs the extra `{extra}`: `pip install 'hf-sqa[{extra}]'`{f'; or {instead}' if instead else ''}."


def import_extra(package: str, what: str, extra: str, instead: str = "", error: type[Exception] = ImportError) -> Any:
    """Import a package of an extra; if it is missing, raise an error that names the extra."""
    try:
        return importlib.import_module(package)
    except ImportError as cause:
        raise error(needs_extra(what, extra, instead)) from cause
