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
from hf_sqa.data.corpora.check import CheckReport as CheckReport, check_corpus as check_corpus
from hf_sqa.data.corpora.corpus import Corpus as Corpus
from hf_sqa.data.corpora.loading import load_corpus as load_corpus

MODULES = (nisqa, pstn, tencent, iub, bvcc, tmhint_qi, somos, tcd_voip, singmos, vmc2023, vmc2024, urgent2024)
CORPORA: dict[str, Corpus] = {module.CORPUS.name: module.CORPUS for module in MODULES}
