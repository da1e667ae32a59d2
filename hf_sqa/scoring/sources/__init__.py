"""Sources of recordings, one module for each kind."""

from hf_sqa.scoring.sources.opening import MANIFEST_SUFFIXES, TABLE_SUFFIXES, open_source
from hf_sqa.scoring.sources.source import Source

__all__ = ["MANIFEST_SUFFIXES", "TABLE_SUFFIXES", "Source", "open_source"]
