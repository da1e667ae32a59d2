"""VoiceMOS Challenge 2023: French synthesis (1a, 1b), singing conversion (2), noisy and enhanced Mandarin (3).

Paper:  Cooper et al., "The VoiceMOS Challenge 2023: Zero-shot Subjective Speech Quality Prediction for Multiple Domains",
        ASRU 2023.
Layout: the recordings of a track in one folder, and SHEET's answers, a headerless CSV (`VoiceMOS2023Track1-A-AD_test_0026,4.42`)
        anywhere below the same root. Names tell the track, and within track 1 the task. Of track 3 the clean originals, whose
        system reads just `TMHINT`, are left out, as SHEET does.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data.corpora.corpus import Corpus, index_audio, locate, read_headerless
from hf_sqa.data.schema import Row

LANGUAGES = {"track1a": "fr", "track1b": "fr", "track2": "en", "track3": "zh"}


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    index = index_audio(root)
    found = False
    for path in locate(root, "VoiceMOS 2023", "*.csv", "answers/*.csv"):
        for (name, score, *_), where in read_headerless(path, 2, "VoiceMOS 2023"):
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
                "language": LANGUAGES[part],
                "split": "test",
                "where": where,
            }
    if not found:
        raise ValueError(
            f"Expected answers of VoiceMOS 2023, rows such as 'VoiceMOS2023Track1-A-AD_test_0026,4.42', in a CSV below "
            f"{str(root)!r}, got none. Is it the label file of another corpus?"
        )


CORPUS = Corpus(
    name="vmc2023",
    title="VoiceMOS Challenge 2023",
    language="fr en zh",
    clips={"track1a": {"test": 882}, "track1b": {"test": 578}, "track2": {"test": 4_040}, "track3": {"test": 1_960}},
    size="7,460 clips",
    licence="unknown",
    source="https://github.com/unilight/sheet (egs/vmc23: links to the recordings, answers)",
    read=read,
)
