"""SOMOS: 200 neural text-to-speech systems in one English voice, rated by crowds.

Paper:  Maniati et al., "SOMOS: The Samsung Open MOS Dataset for the Evaluation of Neural Text-to-Speech Synthesis",
        Interspeech 2022.
Layout: `training_files/split1/{full,clean}/{TRAINSET,VALIDSET,TESTSET}`, a row a rating; `audios/` once `audios.zip` is unpacked.
        `clean` holds a subset of the recordings of `full`, so the bare name means `full`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.schema import Row

FILES = {"TRAINSET": "train", "VALIDSET": "validation", "TESTSET": "test"}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    # The readme writes the folder with a leading underscore.
    patterns = (f"{under}training_files/split1/{part}/{name}" for under in ("", "_") for part in parts for name in FILES)
    for path in locate(root, "SOMOS", *patterns):
        base = path.parents[3]
        for cells, where in read_csv(path, ("systemId", "utteranceId", "choice", "listenerId"), "SOMOS"):
            name = cells["utteranceId"]
            yield {
                "audio": f"{base}/audios/{name}",
                "mos": cells["choice"],
                "system_id": cells["systemId"],
                "listener_id": cells["listenerId"],
                "source_id": name.rsplit("_", 1)[0],
                "corpus": f"somos/{path.parent.name}",
                "split": FILES[path.name],
                "where": where,
            }


CORPUS = Corpus(
    name="somos",
    title="SOMOS",
    language="en",
    clips={"full": {"train": 14_100, "validation": 3_000, "test": 3_000}, "clean": {}},
    size="20,100 clips",
    licence="CC BY-NC-SA 4.0",
    source="https://zenodo.org/records/7378801",
    read=read,
    sampling_rate=24_000,
    rows_are_ratings=True,
    default_parts=("full",),
)
