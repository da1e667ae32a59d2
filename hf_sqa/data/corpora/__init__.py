"""Rated corpora, each with a reader, in modules by what they rate; `load_corpus` reads them, the Hub and your own tables."""

# A module that is imported here registers its corpora; `CORPORA` lists them in this order.
# isort: off
from hf_sqa.data.corpora.corpus import CORPORA as CORPORA, Corpus as Corpus
from hf_sqa.data.corpora import calls as calls, synthesis as synthesis, enhancement as enhancement
from hf_sqa.data.corpora.check import CheckReport as CheckReport, check_corpus as check_corpus
from hf_sqa.data.corpora.loading import load_corpus as load_corpus
