"""Rated synthesised, converted and sung voices."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import index_audio, locate, published, read_labels
from hf_sqa.data.schema import Row

#: Splits by the names of the files that list ratings, and of those that list means.
RATING_FILES = {"TRAINSET": "train", "DEVSET": "validation", "VALIDSET": "validation", "TESTSET": "test"}
MEAN_FILES = {f"{name}_mos_list.txt": split for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))}


@published(
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
    sampling_rate=16_000,
    rows_are_ratings=True,
)
def bvcc(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """VoiceMOS Challenge 2022: BVCC (`main`, English synthesis and conversion) and Blizzard 2019 (`ood`, Mandarin synthesis).

    Paper:  Huang et al., "The VoiceMOS Challenge 2022", Interspeech 2022; Cooper and Yamagishi, SSW 2021.
    Layout: `{main,ood}/DATA/sets/{TRAINSET,DEVSET,TESTSET}` without header, one row per rating; `DATA/wav`. The archives lack audio
            that the organisers' scripts download. If only the lists of means (`*_mos_list.txt`) exist, those are read. Names of
            `ood` have no suffix.
    """
    corpus = "VoiceMOS 2022 (BVCC)"
    ratings = [f"DATA/sets/{name}" for name in ("TRAINSET", "DEVSET", "TESTSET")]
    try:
        files = locate(root, corpus, *ratings)
    except FileNotFoundError:
        files = locate(root, corpus, *ratings, *(f"DATA/sets/{name}" for name in MEAN_FILES))
    for path in files:
        data, are_means = path.parents[1], path.name in MEAN_FILES
        part = "ood" if "ood" in (data.parent.name, root.name) else "main"
        if part not in parts:
            continue
        for _, cells, where in read_labels(corpus, [path], 2 if are_means else 5):
            system, name, score = (cells[0].split("-", 1)[0], *cells[:2]) if are_means else cells[:3]
            yield {
                "audio": f"{data}/wav/{name}",
                "mos": score,
                "system_id": system,
                "listener_id": None if are_means else _listener_id(cells[4]),
                "corpus": f"bvcc/{part}",
                "language": {"main": "en", "ood": "zh"}[part],
                "split": (MEAN_FILES | RATING_FILES)[path.name],
                "where": where,
            }


def _listener_id(text: str) -> str:
    """Return the third field of `{}_30-39_bZPQE7w4Zl3g_Female_Valid_1_No`; the others describe the listener."""
    fields = text.split("_")
    return fields[2] if len(fields) > 2 else text


@published(
    name="somos",
    title="SOMOS",
    language="en",
    clips={"full": {"train": 14_100, "validation": 3_000, "test": 3_000}, "clean": {}},
    licence="CC BY-NC-SA 4.0",
    source="https://zenodo.org/records/7378801",
    sampling_rate=24_000,
    rows_are_ratings=True,
    default_parts=("full",),
)
def somos(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """200 neural text-to-speech systems in one English voice, rated by crowds.

    Paper:  Maniati et al., "SOMOS: The Samsung Open MOS Dataset for the Evaluation of Neural Text-to-Speech Synthesis",
            Interspeech 2022.
    Layout: `training_files/split1/{full,clean}/{TRAINSET,VALIDSET,TESTSET}`, one row per rating; `audios/` once `audios.zip` is
            unpacked. `clean` holds a subset of the recordings of `full`, so the bare name means `full`.
    """
    # The readme writes the folder with a leading underscore.
    folders = [f"{under}training_files/split1/{part}" for under in ("", "_") for part in parts]
    files = locate(root, "SOMOS", *(f"{folder}/{name}" for folder in folders for name in ("TRAINSET", "VALIDSET", "TESTSET")))
    for path, cells, where in read_labels("SOMOS", files, ("systemId", "utteranceId", "choice", "listenerId")):
        name = cells["utteranceId"]
        yield {
            "audio": f"{path.parents[3]}/audios/{name}",
            "mos": cells["choice"],
            "system_id": cells["systemId"],
            "listener_id": cells["listenerId"],
            "source_id": name.rsplit("_", 1)[0],
            "corpus": f"somos/{path.parent.name}",
            "split": RATING_FILES[path.name],
            "where": where,
        }


@published(
    name="singmos",
    title="SingMOS (VoiceMOS Challenge 2024, track 2)",
    language="zh ja",
    clips={"": {"train": 2_000, "validation": 544, "test": 645}},
    licence="CC BY 4.0",
    source="https://huggingface.co/datasets/TangRain/SingMOS_v1",
    sampling_rate=16_000,
)
def singmos(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Synthesised and natural singing, Chinese and Japanese; track 2 of the VoiceMOS Challenge 2024.

    Paper:  Tang et al., "SingMOS: An extensive Open-Source Singing Voice Dataset for MOS Prediction", 2024.
    Layout: `DATA/sets/{train,val,eval}_mos_list.txt`, no header, names without suffix; `DATA/wav`. The later releases on the Hub
            are loaded as `hub:TangRain/SingMOS`.
    """
    splits = {"train_mos_list.txt": "train", "val_mos_list.txt": "validation", "eval_mos_list.txt": "test"}
    files = locate(root, "SingMOS", *(f"DATA/sets/{name}" for name in splits))
    for path, (name, score, *_), where in read_labels("SingMOS", files, 2):
        row = {"audio": f"{path.parents[1]}/wav/{name}", "mos": score, "system_id": name.rsplit("-", 1)[0]}
        yield row | {"split": splits[path.name], "where": where}


@published(
    name="vmc2023",
    title="VoiceMOS Challenge 2023",
    language="fr en zh",
    clips={"track1a": {"test": 882}, "track1b": {"test": 578}, "track2": {"test": 4_040}, "track3": {"test": 1_960}},
    source="https://github.com/unilight/sheet (egs/vmc23: links to the recordings, answers)",
)
def vmc2023(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """French synthesis (1a, 1b), singing conversion (2), noisy and enhanced Mandarin (3).

    Paper:  Cooper et al., "The VoiceMOS Challenge 2023: Zero-shot Subjective Speech Quality Prediction for Multiple Domains",
            ASRU 2023.
    Layout: the recordings of a track in one folder, and SHEET's answers, a headerless CSV
            (`VoiceMOS2023Track1-A-AD_test_0026,4.42`) anywhere below the same root. Names tell the track, and within track 1 the
            task. The clean originals of track 3, whose system is just `TMHINT`, are left out, as in SHEET.
    """
    files, index = locate(root, "VoiceMOS 2023", "*.csv", "answers/*.csv"), index_audio(root)
    found = False
    for path, (name, score, *_), where in read_labels("VoiceMOS 2023", files, 2):
        match = re.fullmatch(r"VoiceMOS2023Track([123])-([^_]+)(_.*)", name)
        if match is None:
            continue
        found = True
        part = f"track{match[1]}"
        if match[1] == "1":
            part += "a" if "-NEB" in name else "b"
        if part not in parts or (part == "track3" and match[2] == "TMHINT"):
            continue
        system = re.sub(r"_TMHINT_.*", "", match[2] + match[3]) if part == "track3" else match[2].removesuffix("-AD")
        yield {
            "audio": index.get(name, f"{path.parent}/{name}.wav"),
            "mos": score,
            "system_id": system.removesuffix("-NEB"),
            "corpus": f"vmc2023/{part}",
            "language": {"track2": "en", "track3": "zh"}.get(part, "fr"),
            "split": "test",
            "where": where,
        }
    if not found:
        raise ValueError(
            f"Expected answers of VoiceMOS 2023, rows such as 'VoiceMOS2023Track1-A-AD_test_0026,4.42', in a CSV below "
            f"{str(root)!r}, got none. Is it the label file of another corpus?"
        )
