"""TCD-VoIP: chopping, clipping, competing speakers, echo and noise of Internet calls, 96 conditions by four talkers.

Paper:  Harte, Gillen and Hines, "TCD-VoIP, a research database of degraded speech for assessing quality in VoIP applications",
        QoMEX 2015.
Layout: a folder a degradation, and an `.xlsx` with the sheet "Subjective Test Scores" (`Filename`, `ConditionID`, `sample MOS`);
        also the CSV forms of it. Names tell the condition, the kind and the talker: `C_01_ECHO_FA.wav`, with its original
        `R_01_ECHO_FA.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.data.corpora.corpus import Corpus, index_audio, locate, read_csv
from hf_sqa.data.corpora.xlsx import read_xlsx
from hf_sqa.data.schema import Row

SHEET = "Subjective Test Scores"
SCORES = ("sample MOS", "sampleMOS", "MOS")
SPREADS = ("sample STD", "sampleSTD")


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    path = locate(root, "TCD-VoIP", "*.xlsx", "*.csv")[0]
    index = index_audio(root)
    for cells, where in _cells(path):
        stem = cells["Filename"].removesuffix(".wav")
        fields = stem.split("_")
        reference = index.get("R" + stem[1:]) if stem.startswith("C_") else None
        yield {
            "audio": index.get(stem, f"{path.parent}/{stem}.wav"),
            "reference_audio": reference,
            "mos": next(cells[name] for name in SCORES if name in cells),
            "mos_std": next((cells[name] for name in SPREADS if name in cells), None),
            "num_ratings": 24,
            "condition_id": cells["ConditionID"],
            "talker_id": fields[-1] if len(fields) > 3 else None,
            "source_id": "R" + stem[1:] if reference else None,
            "corpus": "tcd-voip",
            "language": "en",
            "split": "test",
            "where": where,
        }


def _cells(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    if path.suffix != ".xlsx":
        yield from read_csv(path, ("Filename", "ConditionID"), "TCD-VoIP")
        return
    header: list[str] = []
    for cells, number in read_xlsx(path, SHEET):
        if not header:
            if "Filename" in cells and "ConditionID" in cells:
                header = cells
            continue
        row = dict(zip(header, cells, strict=False))
        if row.get("Filename"):
            yield row, f"{path.name} row {number}"
    if not header or not any(name in header for name in SCORES):
        raise ValueError(
            f"Expected the sheet {SHEET!r} of TCD-VoIP with the columns Filename, ConditionID and {SCORES[0]}, got "
            f"{', '.join(header) or 'none of them'} in {str(path)!r}. Is it the table of another corpus?"
        )


CORPUS = Corpus(
    name="tcd-voip",
    title="TCD-VoIP",
    language="en",
    clips={"": {"test": 384}},
    size="0.9 h",
    licence="CC BY-NC-SA 4.0",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TCD-VOIP)",
    read=read,
    sampling_rate=48_000,
)
