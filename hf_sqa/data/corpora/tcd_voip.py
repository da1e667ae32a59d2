"""TCD-VoIP: chopping, clipping, competing speakers, echo and noise of Internet calls, 96 conditions by four talkers.

Paper:  Harte, Gillen and Hines, "TCD-VoIP, a research database of degraded speech for assessing quality in VoIP applications",
        QoMEX 2015.
Layout: a folder a degradation, and an `.xlsx` with the sheet "Subjective Test Scores" (`Filename`, `ConditionID`, `sample MOS`);
        also the CSV forms of it. Names tell the condition, the kind and the talker: `C_01_ECHO_FA.wav`, with its original
        `R_01_ECHO_FA.wav`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, index_audio, locate, read_csv
from hf_sqa.data.schema import Row

SHEET = "Subjective Test Scores"
SCORES = ("sample MOS", "sampleMOS", "MOS")
SPREADS = ("sample STD", "sampleSTD")


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    path = locate(root, "TCD-VoIP", "*.xlsx", "*.csv")[0]
    index = index_audio(root)
    for cells, where in read_csv(path, ("Filename", "ConditionID"), "TCD-VoIP", SHEET):
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
            "split": "test",
            "where": where,
        }


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
