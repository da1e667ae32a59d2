"""Rated telephone and Internet calls, real and simulated."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import index_audio, locate, published, read_labels
from hf_sqa.data.corpora.own_table import read_table
from hf_sqa.data.schema import Row

NISQA_CLIPS = {
    "TRAIN_SIM": {"train": 10_000},
    "TRAIN_LIVE": {"train": 1_020},
    "VAL_SIM": {"validation": 2_500},
    "VAL_LIVE": {"validation": 200},
    "TEST_FOR": {"test": 240},
    "TEST_P501": {"test": 240},
    "TEST_LIVETALK": {"test": 232},
}
NISQA_COLUMNS = {"mos": "mos", "noisiness": "noi", "coloration": "col", "discontinuity": "dis", "loudness": "loud"}
NISQA_COLUMNS |= {"mos_std": "mos_std", "num_ratings": "votes", "source_id": "filename_ref"}


@published(
    name="nisqa",
    title="NISQA Corpus",
    language="en de",
    clips=NISQA_CLIPS,
    size="27 h in the training sets, about 12 GB",
    licence="mixed: the terms of each source",
    source="https://depositonce.tu-berlin.de/bitstream/11303/13012.5/9/NISQA_Corpus.zip",
    sampling_rate=48_000,
)
def nisqa(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Seven databases of telephone, Internet and simulated calls, with five scores each.

    Paper:  Mittag et al., "NISQA: A Deep CNN-Self-Attention Model for Multidimensional Speech Quality Prediction", Interspeech
            2021.
    Layout: `NISQA_corpus_file.csv` lists all databases; each has its own `<database>/<database>_file.csv` too.
    """
    databases = {f"NISQA_{part}": part for part in parts}
    try:
        files = locate(root, "NISQA", "NISQA_corpus_file.csv")
        base = files[0].parent
    except FileNotFoundError:
        files = locate(root, "NISQA", "NISQA_corpus_file.csv", *(f"{name}/{name}_file.csv" for name in databases))
        base = files[0].parents[1]
    for _, cells, where in read_labels("NISQA", files, ("db", "filepath_deg", "mos", "con")):
        part = databases.get(cells["db"])
        if part is None:
            continue
        reference = cells.get("filepath_ref", "")
        yield {
            "audio": f"{base}/{cells['filepath_deg']}",
            "reference_audio": f"{base}/{reference}" if reference else None,
            **{name: cells.get(column) for name, column in NISQA_COLUMNS.items()},
            "condition_id": f"{part}/{cells['con']}",
            "corpus": f"nisqa/{part}",
            "language": "de" if part == "TEST_LIVETALK" else "en",
            "split": next(iter(NISQA_CLIPS[part])),
            "where": where,
        }


@published(
    name="pstn",
    title="PSTN Corpus (ConferencingSpeech 2022)",
    language="en",
    clips={"": {"": 58_709}},
    size="163 h, 9.4 GB",
    source="https://challenge.blob.core.windows.net/pstn/train.zip",
    sampling_rate=8_000,
)
def pstn(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Calls through the public telephone network, from the ConferencingSpeech 2022 challenge.

    Paper:  Mittag et al., "DNN No-Reference PSTN Speech Quality Prediction", Interspeech 2020.
    Layout: `pstn_train/pstn_train.csv` with the recordings beside it. It has neither splits nor systems; clips that share the id
            before the first `_` of their name come from one original (`source_id`).
    """
    files = locate(root, "PSTN", "pstn_train.csv")[:1]
    for path, cells, where in read_labels("PSTN", files, ("filename", "MOS", "std", "95%CI", "votes")):
        yield {
            "audio": f"{path.parent}/{cells['filename']}",
            "mos": cells["MOS"],
            "mos_std": cells["std"],
            "mos_ci95": cells["95%CI"],
            "num_ratings": cells["votes"],
            "source_id": cells["filename"].split("_", 1)[0],
            "where": where,
        }


TENCENT_FILES = {
    "without_reverberation": "withoutReverberationTrainDevMOS.csv",
    "with_reverberation": "withReverberationTrainDevMOS.csv",
}


@published(
    name="tencent",
    title="Tencent Corpus (ConferencingSpeech 2022)",
    language="zh",
    clips={"without_reverberation": {"": 8_366}, "with_reverberation": {"": 3_197}},
    size="23.5 h",
    licence="Apache-2.0, as the URGENT 2026 challenge lists it",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TencentCorpus.zip)",
    sampling_rate=16_000,
)
def tencent(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Mandarin conference calls without and with reverberation, from the ConferencingSpeech 2022 challenge.

    Paper:  Yi et al., "ConferencingSpeech 2022 Challenge: Non-intrusive Objective Speech Quality Assessment", Interspeech 2022.
    Layout: two label files beside two folders; names in them begin with `./` and the folder. It has neither splits nor systems.
    """
    part_of = {TENCENT_FILES[part]: part for part in parts}
    for path, cells, where in read_labels("Tencent", locate(root, "Tencent", *part_of), ("deg_wav", "mos")):
        audio = f"{path.parent}/{cells['deg_wav']}"
        yield {"audio": audio, "mos": cells["mos"], "corpus": f"tencent/{part_of[path.name]}", "where": where}


def iub_scale(scores: Sequence[float]) -> tuple[float, float]:
    """Return the scale that the scores show, `(0, 10)` or `(0, 100)`.

    Raises:
        ValueError: If all scores lie within 1-5: they may be on 0-10, or rescaled to 1-5 already.
    """
    if max(scores) > 10:
        return 0.0, 100.0
    if max(scores) > 5 or min(scores) < 1:
        return 0.0, 10.0
    raise ValueError(
        f"The scores of IU Bloomington lie within {min(scores):g}-{max(scores):g}: that is 0-10, or 1-5 after a rescaling. "
        "Say which with `scale=(0, 10)` or `scale=(1, 5)` (`--scale 0 10`)."
    )


@published(
    name="iub",
    title="IU Bloomington COSINE and VOiCES (ConferencingSpeech 2022)",
    language="en",
    clips={"cosine": {"": 18_000}, "voices": {"": 18_000}},
    size="about 45 h",
    source="https://drive.google.com/drive/folders/1wIgOqnKA1U-wZQrU8eb67yQyRVOK3SnZ",
    scale=(0.0, 10.0),
    sampling_rate=16_000,
    detect_scale=iub_scale,
)
def iub(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """COSINE (noise) and VOiCES (reverberation), rated by MUSHRA.

    Paper:  Dong and Williamson, "A Pyramid Recurrent Network for Predicting Crowdsourced Speech-Quality Ratings of Real-World
            Signals", Interspeech 2020.
    Layout: as far as we know, its file names are not published. Any CSV below the folder with a column of paths and one of scores
            is read; `cosine` or `voices` in a path, or in the CSV's name, tells the part.
    Scale:  ratings on 0-100, released normalised to 0-10. `mos = 1 + 4 * score / 10`, or `/ 100` if any score exceeds 10. Scores
            that all lie within 1-5 could be on any scale: the reader then asks for `scale`.
    """
    for path in locate(root, "IU Bloomington", "*.csv"):
        for row in read_table(path, None, {}, ())[0]:
            name = row["audio"].removeprefix(f"{path.parent}/")
            part = next((part for part in ("cosine", "voices") if part in f"{path.stem}/{name}".lower()), None)
            if part is None:
                raise ValueError(
                    f"Expected 'cosine' or 'voices' in the paths or the name of the label file of IU Bloomington, got {name!r} "
                    f"in {str(path)!r}; rename the file to tell the parts apart."
                )
            if part in parts:
                yield {"audio": row["audio"], "mos": row.get("mos"), "corpus": f"iub/{part}", "where": row["where"]}


@published(
    name="tcd-voip",
    title="TCD-VoIP",
    language="en",
    clips={"": {"test": 384}},
    size="0.9 h",
    licence="CC BY-NC-SA 4.0",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TCD-VOIP)",
    sampling_rate=48_000,
)
def tcd_voip(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Chopping, clipping, competing speakers, echo and noise of Internet calls, 96 conditions by four talkers.

    Paper:  Harte, Gillen and Hines, "TCD-VoIP, a research database of degraded speech for assessing quality in VoIP applications",
            QoMEX 2015.
    Layout: a folder for each degradation, and an `.xlsx` with the sheet "Subjective Test Scores" (`Filename`, `ConditionID`,
            `sample MOS`), or its CSV forms. Names tell the condition, the kind and the talker: `C_01_ECHO_FA.wav`, with its
            original `R_01_ECHO_FA.wav`.
    """
    files, index = locate(root, "TCD-VoIP", "*.xlsx", "*.csv")[:1], index_audio(root)
    for path, cells, where in read_labels("TCD-VoIP", files, ("Filename", "ConditionID"), "Subjective Test Scores"):
        stem = cells["Filename"].removesuffix(".wav")
        fields = stem.split("_")
        reference = index.get("R" + stem[1:]) if stem.startswith("C_") else None
        yield {
            "audio": index.get(stem, f"{path.parent}/{stem}.wav"),
            "reference_audio": reference,
            "mos": next(cells[name] for name in ("sample MOS", "sampleMOS", "MOS") if name in cells),
            "mos_std": next((cells[name] for name in ("sample STD", "sampleSTD") if name in cells), None),
            "num_ratings": 24,
            "condition_id": cells["ConditionID"],
            "talker_id": fields[-1] if len(fields) > 3 else None,
            "source_id": "R" + stem[1:] if reference else None,
            "split": "test",
            "where": where,
        }
