"""Rated noisy and enhanced speech."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import index_audio, locate, published, read_labels
from hf_sqa.data.corpora.hub_dataset import read_hub
from hf_sqa.data.schema import Row
from hf_sqa.folders import AudioFolders

TMHINT_COLUMNS = ("method", "uttr", "snr", "noise", "quality_score", "intelligibility_score", "file_name")
URGENT_ID = "urgent-challenge/urgent2024_mos"


@published(
    name="tmhint-qi",
    title="TMHINT-QI",
    language="zh",
    clips={"": {"train": 12_937, "test": 1_978}},
    licence="MIT, as the URGENT 2026 challenge lists it",
    source="https://huggingface.co/datasets/urgent-challenge/urgent26_track2_sqa (TMHINTQI.zip)",
    sampling_rate=16_000,
    rows_are_ratings=True,
)
def tmhint_qi(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Noisy and enhanced Mandarin, quality and intelligibility.

    Paper:  Chen and Tsao, "InQSS: a speech intelligibility and quality assessment model using a multi-task learning network",
            Interspeech 2022.
    Layout: `TMHINTQI/raw_data.csv`, one row per rating, no listeners, names without suffix; recordings in `train/` and `test/`.
            3QUEST labels (S-, N-, G-MOS), which the training of MTQ-Net needs, are joined from your own table: `join=`.
    """
    folders = AudioFolders()
    for path, cells, where in read_labels("TMHINT-QI", locate(root, "TMHINT-QI", "raw_data.csv")[:1], TMHINT_COLUMNS):
        name = cells["file_name"]
        split = "test" if {f"{name}.wav", name} & folders.names(f"{path.parent}/test") else "train"
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


@published(
    name="vmc2024",
    title="VoiceMOS Challenge 2024, track 3",
    language="en",
    clips={"track3": {"test": 280}},
    source="https://github.com/unilight/sheet (egs/vmc24: links to the recordings, answers)",
    sampling_rate=16_000,
)
def vmc2024(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Noisy and enhanced VoiceBank-DEMAND, rated by P.835. Track 2 is the corpus `singmos`.

    Paper:  Huang et al., "The VoiceMOS Challenge 2024: Beyond Speech Quality Prediction", SLT 2024.
    Layout: `voicemos2024-track3-<id>.wav` in one folder, and SHEET's answers, a CSV `systems,SIG,BAK,OVR` anywhere below the same
            root. OVR is `mos`; SIG and BAK, the listeners' view of speech and background, are `s_mos` and `n_mos`.
    """
    # SHEET also has a CSV of individual listeners, which uses other names for the samples.
    files, index = locate(root, "VoiceMOS 2024", "*.csv", "answers/*.csv"), index_audio(root)
    file = next((file for file in files if "OVR" in file.read_text(encoding="utf-8-sig").split("\n", 1)[0]), files[0])
    for path, cells, where in read_labels("VoiceMOS 2024, track 3", [file], ("systems", "SIG", "BAK", "OVR")):
        stem = cells["systems"].removesuffix(".wav")
        row = {"audio": index.get(stem, f"{path.parent}/{stem}.wav"), "corpus": "vmc2024/track3", "split": "test", "where": where}
        yield row | {"mos": cells["OVR"], "s_mos": cells["SIG"], "n_mos": cells["BAK"]}


@published(
    name="urgent2024-mos",
    title="URGENT 2024 MOS",
    language="en",
    clips={"": {"test": 6_900}},
    size="300 by 23 systems",
    licence="CC BY-NC-SA 4.0",
    source=f"https://huggingface.co/datasets/{URGENT_ID}",
    hub_id=URGENT_ID,
)
def urgent2024(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Enhanced speech of 23 systems, from the Hub, or from a local copy of it; `load_corpus("urgent2024-mos")` needs no folder.

    Paper:  Zhang et al., "URGENT Challenge: Universality, Robustness, and Generalizability For Speech Enhancement", Interspeech
            2024.
    Layout: parquet, split `test`: `id`, `audio`, `mos`, `raw_ratings`; rates from 8 to 48 kHz.
    """
    return iter(read_hub(str(root), "test", None, {}, ())[0])
