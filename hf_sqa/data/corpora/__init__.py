"""Rated corpora: a module each, a line here each; and `load_corpus`, which reads them, the Hub and tables of one's own."""

from hf_sqa.data.corpora import (
    bvcc,
    iub,
    nisqa,
    pstn,
    singmos,
    somos,
    tcd_voip,
    tencent,
    tmhint_qi,
    urgent2024,
    vmc2023,
    vmc2024,
)
from hf_sqa.data.corpora.check import CheckReport, check_corpus
from hf_sqa.data.corpora.corpus import Corpus
from hf_sqa.data.corpora.loading import load_corpus

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        nisqa.CORPUS,
        pstn.CORPUS,
        tencent.CORPUS,
        iub.CORPUS,
        bvcc.CORPUS,
        tmhint_qi.CORPUS,
        somos.CORPUS,
        tcd_voip.CORPUS,
        singmos.CORPUS,
        vmc2023.CORPUS,
        vmc2024.CORPUS,
        urgent2024.CORPUS,
    )
}
__all__ = ["CORPORA", "CheckReport", "Corpus", "check_corpus", "load_corpus"]
