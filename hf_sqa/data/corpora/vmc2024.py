"""VoiceMOS Challenge 2024, track 3: noisy and enhanced VoiceBank-DEMAND, rated by P.835. Track 2 is the corpus `singmos`.

Paper:  Huang et al., "The VoiceMOS Challenge 2024: Beyond Speech Quality Prediction", SLT 2024.
Layout: `voicemos2024-track3-<id>.wav` in one folder, and SHEET's answers, a CSV `systems,SIG,BAK,OVR` anywhere below the same root.
        OVR is `mos`; SIG and BAK, the listeners' view of speech and background, are `s_mos` and `n_mos`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, index_audio, locate, read_csv
from hf_sqa.data.schema import Row


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    index = index_audio(root)
    # SHEET also has a CSV of single listeners, which names samples otherwise.
    paths = locate(root, "VoiceMOS 2024", "*.csv", "answers/*.csv")
    path = next((file for file in paths if "OVR" in file.read_text(encoding="utf-8-sig").split("\n", 1)[0]), paths[0])
    for cells, where in read_csv(path, ("systems", "SIG", "BAK", "OVR"), "VoiceMOS 2024, track 3"):
        stem = cells["systems"].removesuffix(".wav")
        yield {
            "audio": index.get(stem, f"{path.parent}/{stem}.wav"),
            "mos": cells["OVR"],
            "s_mos": cells["SIG"],
            "n_mos": cells["BAK"],
            "corpus": "vmc2024/track3",
            "split": "test",
            "where": where,
        }


CORPUS = Corpus(
    name="vmc2024",
    title="VoiceMOS Challenge 2024, track 3",
    language="en",
    clips={"track3": {"test": 280}},
    size="280 clips",
    licence="unknown",
    source="https://github.com/unilight/sheet (egs/vmc24: links to the recordings, answers)",
    read=read,
    sampling_rate=16_000,
)
