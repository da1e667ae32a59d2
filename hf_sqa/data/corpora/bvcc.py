"""VoiceMOS Challenge 2022: BVCC (`main`, English synthesis and conversion) and Blizzard 2019 (`ood`, Mandarin synthesis).

Paper:  Huang et al., "The VoiceMOS Challenge 2022", Interspeech 2022; Cooper and Yamagishi, SSW 2021.
Layout: `{main,ood}/DATA/sets/{TRAINSET,DEVSET,TESTSET}` without header, a row a rating; `DATA/wav`. The archives lack audio that
        the organisers' scripts download. Where only the lists of means (`*_mos_list.txt`) are there, those are read. Names of
        `ood` have no suffix.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, locate, read_headerless
from hf_sqa.data.schema import Row

RATING_FILES = {"TRAINSET": "train", "DEVSET": "validation", "TESTSET": "test"}
MEAN_FILES = {"train_mos_list.txt": "train", "val_mos_list.txt": "validation", "test_mos_list.txt": "test"}
LANGUAGES = {"main": "en", "ood": "zh"}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    try:
        paths = locate(root, "VoiceMOS 2022 (BVCC)", *(f"DATA/sets/{name}" for name in RATING_FILES))
    except FileNotFoundError:
        both = (*RATING_FILES, *MEAN_FILES)
        paths = locate(root, "VoiceMOS 2022 (BVCC)", *(f"DATA/sets/{name}" for name in both))
    for path in paths:
        data = path.parents[1]
        part = "ood" if "ood" in (data.parent.name, root.name) else "main"
        if part not in parts:
            continue
        shared = {"corpus": f"bvcc/{part}", "language": LANGUAGES[part]}
        if path.name in MEAN_FILES:
            for (name, score, *_), where in read_headerless(path, 2, "VoiceMOS 2022 (BVCC)"):
                system = name.split("-", 1)[0]
                row = {"mos": score, "system_id": system, "split": MEAN_FILES[path.name], "where": where, **shared}
                yield {"audio": f"{data}/wav/{name}", **row}
            continue
        for (system, name, score, _, listener, *_), where in read_headerless(path, 5, "VoiceMOS 2022 (BVCC)"):
            yield {
                "audio": f"{data}/wav/{name}",
                "mos": score,
                "system_id": system,
                "listener_id": _listener_id(listener),
                "split": RATING_FILES[path.name],
                "where": where,
                **shared,
            }


def _listener_id(text: str) -> str:
    """`{}_30-39_bZPQE7w4Zl3g_Female_Valid_1_No`: the third field; the others describe the listener."""
    fields = text.split("_")
    return fields[2] if len(fields) > 2 else text


CORPUS = Corpus(
    name="bvcc",
    title="VoiceMOS Challenge 2022: BVCC and Blizzard 2019",
    language="en zh",
    clips={
        "main": {"train": 4_974, "validation": 1_066, "test": 1_066},
        "ood": {"train": 136, "validation": 136, "test": 540},
    },
    size="187 systems (main)",
    licence="terms of the Blizzard Challenges, research only",
    source="https://zenodo.org/records/6572573",
    read=read,
    sampling_rate=16_000,
    rows_are_ratings=True,
)
