"""Score a corpus of any size: any source, shards that survive every kill, a report, a filter. Importing it loads no torch."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CorpusScorer": "run",
    "OutputLocked": "run",
    "Progress": "run",
    "RunMismatch": "run",
    "Settings": "run",
    "score_batch": "run",
    "score_corpus": "run",
    "OutputError": "shards",
    "Item": "items",
    "Source": "sources",
    "open_source": "sources",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"hf_sqa.scoring.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.scoring' has no attribute {name!r}")
