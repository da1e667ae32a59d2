"""URGENT 2024 MOS: enhanced speech of 23 systems, from the Hub; `load_corpus("urgent2024-mos")` needs no folder.

Paper:  Zhang et al., "URGENT Challenge: Universality, Robustness, and Generalizability For Speech Enhancement", Interspeech 2024.
Layout: parquet, split `test`: `id`, `audio`, `mos`, `raw_ratings`; rates from 8 to 48 kHz.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus
from hf_sqa.data.corpora.hub_dataset import read_hub
from hf_sqa.data.schema import Row

HUB_ID = "urgent-challenge/urgent2024_mos"


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """`root` is the repository's id, or a local copy of it."""
    return iter(read_hub(str(root), "test", None, {}, ())[0])


CORPUS = Corpus(
    name="urgent2024-mos",
    title="URGENT 2024 MOS",
    language="en",
    clips={"": {"test": 6_900}},
    size="6,900 clips, 300 by 23 systems",
    licence="CC BY-NC-SA 4.0",
    source=f"https://huggingface.co/datasets/{HUB_ID}",
    read=read,
    hub_id=HUB_ID,
)
