"""Rated corpora in one schema. Importing it is cheap: neither datasets nor pandas nor torch is loaded."""

from hf_sqa.data.corpora import CORPORA, check_corpus, load_corpus
from hf_sqa.data.schema import SCORE_RANGES, TEXT_COLUMNS, rescale_mos, schema_features

__all__ = ["CORPORA", "SCORE_RANGES", "TEXT_COLUMNS", "check_corpus", "load_corpus", "rescale_mos", "schema_features"]
