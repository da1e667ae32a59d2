"""TMHINT-QI: noisy and enhanced Mandarin, quality and intelligibility.

Paper:  Chen and Tsao, "InQSS: a speech intelligibility and quality assessment model using a multi-task learning network",
        Interspeech 2022.
Layout: `TMHINTQI/raw_data.csv`, a row a rating without a listener, names without suffix; recordings in `train/` and `test/`.
        3QUEST labels (S-, N-, G-MOS), which the training of MTQ-Net needs, are joined from a table of one's own: `join=`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.schema import Row
from hf_sqa.folders import AudioFolders

COLUMNS = ("method", "uttr", "snr", "noise", "quality_score", "intelligibility_score", "file_name")


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    path = locate(root, "TMHINT-QI", "raw_data.csv")[0]
    folders = AudioFolders()
    test = folders.names(str(path.parent / "test"))
    for cells, where in read_csv(path, COLUMNS, "TMHINT-QI"):
        name = cells["file_name"]
        split = "test" if f"{name}.wav" in test or name in test else "train"
        yield {
            "audio": f"{path.parent}/{split}/{name}",
            "mos": cells["quality_score"],
            "intelligibility": cells["intelligibility_score"],
            "system_id": f"{cells['method']}-{cells['snr']}-{cells['noise']}",
            "condition_id": f"{cells['snr']}-{cells['noise']}",
            "source_id": cells["uttr"],
            "split": split,
            "where": where,
        }


CORPUS = Corpus(
    name="tmhint-qi",
    title="TMHINT-QI",
    language="zh",
    clips={"": {"train": 12_937, "test": 1_978}},
    size="14,915 clips",
    licence="MIT, as the URGENT 2026 challenge lists it",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TMHINTQI.zip)",
    read=read,
    sampling_rate=16_000,
    rows_are_ratings=True,
)
