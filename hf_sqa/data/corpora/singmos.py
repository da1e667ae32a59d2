"""SingMOS: synthesised and natural singing, Chinese and Japanese; track 2 of the VoiceMOS Challenge 2024.

Paper:  Tang et al., "SingMOS: An extensive Open-Source Singing Voice Dataset for MOS Prediction", 2024.
Layout: `DATA/sets/{train,val,eval}_mos_list.txt`, no header, names without suffix; `DATA/wav`. The later releases on the Hub are
        loaded as `hub:TangRain/SingMOS`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_headerless
from hf_sqa.data.schema import Row

FILES = {"train_mos_list.txt": "train", "val_mos_list.txt": "validation", "eval_mos_list.txt": "test"}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    for path in locate(root, "SingMOS", *(f"DATA/sets/{name}" for name in FILES)):
        for (name, score, *_), where in read_headerless(path, 2, "SingMOS"):
            yield {
                "audio": f"{path.parents[1]}/wav/{name}",
                "mos": score,
                "system_id": name.rsplit("-", 1)[0],
                "split": FILES[path.name],
                "where": where,
            }


CORPUS = Corpus(
    name="singmos",
    title="SingMOS (VoiceMOS Challenge 2024, track 2)",
    language="zh ja",
    clips={"": {"train": 2_000, "validation": 544, "test": 645}},
    size="3,189 clips",
    licence="CC BY 4.0",
    source="https://huggingface.co/datasets/TangRain/SingMOS_v1",
    read=read,
    sampling_rate=16_000,
)
