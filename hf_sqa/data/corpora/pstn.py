"""PSTN corpus: calls through the public telephone network, from the ConferencingSpeech 2022 challenge.

Paper:  Mittag et al., "DNN No-Reference PSTN Speech Quality Prediction", Interspeech 2020.
Layout: `pstn_train/pstn_train.csv` with the recordings beside it. It has neither splits nor systems; clips that share the id before
        the first `_` of their name come from one original (`source_id`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.schema import Row


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    path = locate(root, "PSTN", "pstn_train.csv")[0]
    for cells, where in read_csv(path, ("filename", "MOS", "std", "95%CI", "votes"), "PSTN"):
        yield {
            "audio": f"{path.parent}/{cells['filename']}",
            "mos": cells["MOS"],
            "mos_std": cells["std"],
            "mos_ci95": cells["95%CI"],
            "num_ratings": cells["votes"],
            "source_id": cells["filename"].split("_", 1)[0],
            "where": where,
        }


CORPUS = Corpus(
    name="pstn",
    title="PSTN Corpus (ConferencingSpeech 2022)",
    language="en",
    clips={"": {"": 58_709}},
    size="163 h, 9.4 GB",
    licence="unknown",
    source="https://challenge.blob.core.windows.net/pstn/train.zip",
    read=read,
    sampling_rate=8_000,
)
