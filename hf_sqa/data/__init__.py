"""Rated corpora in one schema. Importing it is cheap: neither datasets nor pandas nor torch is loaded."""

from hf_sqa.data.corpora import CORPORA as CORPORA, check_corpus as check_corpus, load_corpus as load_corpus
from hf_sqa.data.schema import (
    SCORE_RANGES as SCORE_RANGES,
    TEXT_COLUMNS as TEXT_COLUMNS,
    rescale_mos as rescale_mos,
    schema_features as schema_features,
)
