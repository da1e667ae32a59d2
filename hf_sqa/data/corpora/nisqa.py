"""NISQA corpus: seven databases of telephone, Internet and simulated calls, with five scores each.

Paper:  Mittag et al., "NISQA: A Deep CNN-Self-Attention Model for Multidimensional Speech Quality Prediction", Interspeech 2021.
Layout: `NISQA_corpus_file.csv` lists all databases; each has its own `<database>/<database>_file.csv` too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.schema import Row

CLIPS = {
    "TRAIN_SIM": {"train": 10_000},
    "TRAIN_LIVE": {"train": 1_020},
    "VAL_SIM": {"validation": 2_500},
    "VAL_LIVE": {"validation": 200},
    "TEST_FOR": {"test": 240},
    "TEST_P501": {"test": 240},
    "TEST_LIVETALK": {"test": 232},
}
SCORES = {"mos": "mos", "noisiness": "noi", "coloration": "col", "discontinuity": "dis", "loudness": "loud"}
SCORES |= {"mos_std": "mos_std", "num_ratings": "votes"}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    databases = {f"NISQA_{part}": part for part in parts}
    try:
        files = locate(root, "NISQA", "NISQA_corpus_file.csv")
        base = files[0].parent
    except FileNotFoundError:
        files = locate(root, "NISQA", "NISQA_corpus_file.csv", *(f"{name}/{name}_file.csv" for name in databases))
        base = files[0].parents[1]
    for path in files:
        for cells, where in read_csv(path, ("db", "filepath_deg", "mos", "con"), "NISQA"):
            part = databases.get(cells["db"])
            if part is None:
                continue
            reference = cells.get("filepath_ref", "")
            yield {
                "audio": f"{base}/{cells['filepath_deg']}",
                "reference_audio": f"{base}/{reference}" if reference else None,
                **{name: cells.get(column) for name, column in SCORES.items()},
                "condition_id": f"{part}/{cells['con']}",
                "source_id": cells.get("filename_ref"),
                "corpus": f"nisqa/{part}",
                "language": "de" if part == "TEST_LIVETALK" else "en",
                "split": next(iter(CLIPS[part])),
                "where": where,
            }


CORPUS = Corpus(
    name="nisqa",
    title="NISQA Corpus",
    language="en de",
    clips=CLIPS,
    size="27 h in the training sets, about 12 GB",
    licence="mixed: the terms of each source",
    source="https://depositonce.tu-berlin.de/bitstream/11303/13012.5/9/NISQA_Corpus.zip",
    read=read,
    sampling_rate=48_000,
)
