"""Tencent corpus: Mandarin conference calls without and with reverberation, from the ConferencingSpeech 2022 challenge.

Paper:  Yi et al., "ConferencingSpeech 2022 Challenge: Non-intrusive Objective Speech Quality Assessment", Interspeech 2022.
Layout: two label files beside two folders; names in them begin with `./` and say the folder. It has neither splits nor systems.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.schema import Row

LABEL_FILES = {
    "without_reverberation": "withoutReverberationTrainDevMOS.csv",
    "with_reverberation": "withReverberationTrainDevMOS.csv",
}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    part_of = {LABEL_FILES[part]: part for part in parts}
    for path in locate(root, "Tencent", *part_of):
        for cells, where in read_csv(path, ("deg_wav", "mos"), "Tencent"):
            yield {
                "audio": f"{path.parent}/{cells['deg_wav']}",
                "mos": cells["mos"],
                "corpus": f"tencent/{part_of[path.name]}",
                "where": where,
            }


CORPUS = Corpus(
    name="tencent",
    title="Tencent Corpus (ConferencingSpeech 2022)",
    language="zh",
    clips={"without_reverberation": {"": 8_366}, "with_reverberation": {"": 3_197}},
    size="23.5 h",
    licence="Apache-2.0, as the URGENT 2026 challenge lists it",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TencentCorpus.zip)",
    read=read,
    sampling_rate=16_000,
)
