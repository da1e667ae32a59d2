"""`check_corpus`: is a download complete, and are its labels as published? Reads headers, and does not decode audio."""

import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hf_sqa.data.corpora.corpus import Corpus
from hf_sqa.data.corpora.loading import find_corpus, read_corpus
from hf_sqa.data.schema import SCORE_RANGES, Row, first_few
from hf_sqa.folders import AUDIO_SUFFIXES, AudioFolders

#: Kinds of faults with their names, in the order of the report.
FAULTS = {
    "count": "counts that differ from the published ones",
    "missing": "missing recordings",
    "missing_reference": "missing references",
    "unreadable": "recordings that cannot be read",
    "rate": "odd sampling rates",
    "text": "scores that are no numbers",
    "scale": "scores outside their scale",
    "unrated": "recordings without a score",
    "constant": "constant columns",
    "duplicate": "recordings listed twice",
    "repeated_rating": "ratings given twice by one listener",
}


@dataclass
class CheckReport:
    """Result of [`check_corpus`]."""

    name: str  # the corpus or table
    # a row for each part and split: `part`, `split`, `rows`, `published` (`None` where not known), `present` (recordings on disk)
    # and `mos_mean`
    present: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # items by kind, see `FAULTS`
    sampling_rates: dict[int, int] = field(default_factory=dict)  # number of recordings by rate in Hz
    seconds: float = 0.0  # audio on disk
    unlabelled: int = 0  # audio files that no label names; not a fault
    absent: list[str] = field(default_factory=list)  # parts without any row; not a fault, as parts are downloaded one by one

    def __str__(self) -> str:
        lines = [f"{self.name}: {sum(row['present'] for row in self.present):,} recordings, {self.seconds / 3600:.2f} h"]
        for row in self.present:
            published = "" if row["published"] is None else f", published {row['published']:,}"
            where = " ".join(filter(None, (row["part"], row["split"]))) or "all"
            lines.append(f"  {where}: {row['rows']:,} rated{published}; {row['present']:,} on disk; mean MOS {row['mos_mean']:.2f}")
        if self.sampling_rates:
            lines.append("  rates: " + ", ".join(f"{rate} Hz {count:,}" for rate, count in sorted(self.sampling_rates.items())))
        if self.absent:
            lines.append(f"  not here: {', '.join(self.absent)}")
        if self.unlabelled:
            lines.append(f"  without a label: {self.unlabelled:,} audio files beside the rated ones")
        for kind, title in FAULTS.items():
            if kind in self.faults:
                lines.append(f"  FAULT {len(self.faults[kind]):,} {title}: {first_few(self.faults[kind])}")
        if not self.faults:
            lines.append("  no faults")
        return "\n".join(lines)


def check_corpus(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    scale: tuple[float, float] | None = None,
    columns: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Compare a corpus with its published facts; `name`, `root`, `scale` and `columns` are as for [`load_corpus`].

    `progress` is called with the number of headers read and the number of recordings.
    """
    name = os.fspath(name)
    folders = AudioFolders()
    examined = read_corpus(name, root, columns=columns, scale=scale, folders=folders)
    report = CheckReport(name)
    report.faults |= examined.problems
    corpus, part = find_corpus(name)
    _count(report, corpus, part, examined.rows)
    for row in examined.rows:
        if all(math.isnan(row[score]) for score in (*SCORE_RANGES, *examined.score_names)):
            report.faults["unrated"].append(row["utterance_id"] or row["where"])
    _read_headers(report, examined.rows, None if corpus is None else corpus.sampling_rate, progress)
    _count_unlabelled(report, examined.rows, folders)
    return report


def _count(report: CheckReport, corpus: Corpus | None, part: str | None, rows: list[Row]) -> None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        label = row["corpus"] or ""
        prefix = corpus.name if corpus is not None else report.name
        groups.setdefault((label.removeprefix(prefix).removeprefix("/"), row["split"] or ""), []).append(row)
    published, here = {}, {label for label, _ in groups}
    if corpus is not None:
        published = {(name, split): count for name in corpus.parts(part) for split, count in corpus.clips[name].items()}
        report.absent = [corpus.label(name) for name in corpus.parts(part) if name not in here]
    for key in dict.fromkeys((*published, *groups)):
        if key[0] not in here:
            continue
        group = groups.get(key, [])
        scores = [row["mos"] for row in group if row["mos"] == row["mos"]]
        counts = {"rows": len(group), "published": published.get(key), "present": sum(not row["missing"] for row in group)}
        mean = sum(scores) / len(scores) if scores else float("nan")
        report.present.append({"part": key[0], "split": key[1], **counts, "mos_mean": mean})
        if key in published and len(group) != published[key]:
            where = " ".join(filter(None, key)) or "all"
            report.faults["count"].append(f"{where} has {len(group):,} of {published[key]:,}")


def _read_headers(report: CheckReport, rows: list[Row], expected: int | None, progress: Callable[[int, int], None] | None) -> None:
    """Read rates and durations. Without a published rate, the most common is expected, if 90 % of the recordings have it."""
    import soundfile

    rates: dict[int, list[str]] = {}
    present = [row for row in rows if not row["missing"] and not (isinstance(row["audio"], str) and "://" in row["audio"])]
    recordings = {row["audio"] if isinstance(row["audio"], str) else row["audio"]["path"]: row["embedded"] for row in present}
    for number, (recording, embedded) in enumerate(recordings.items(), 1):
        try:
            audio = {} if embedded is None else embedded[0][embedded[1]]["audio"]
            header = soundfile.info(io.BytesIO(audio["bytes"]) if audio.get("bytes") else audio.get("path") or recording)
        except (RuntimeError, OSError) as error:
            report.faults["unreadable"].append(f"{recording} ({' '.join(str(error).split())[-80:]})")
        else:
            rates.setdefault(header.samplerate, []).append(recording)
            report.seconds += header.duration
            if header.frames == 0:
                report.faults["unreadable"].append(f"{recording} (no samples)")
        if progress is not None and (number % 200 == 0 or number == len(recordings)):
            progress(number, len(recordings))
    report.sampling_rates = {rate: len(files) for rate, files in rates.items()}
    if expected is None and rates:
        commonest, count = Counter(report.sampling_rates).most_common(1)[0]
        expected = commonest if count >= 0.9 * sum(report.sampling_rates.values()) else None
    for rate, files in rates.items():
        if expected not in (None, rate):
            report.faults["rate"] += [f"{file} {rate} Hz instead of {expected}" for file in files]


def _count_unlabelled(report: CheckReport, rows: list[Row], folders: AudioFolders) -> None:
    named = {row["audio"] for row in rows if isinstance(row["audio"], str) and not row["missing"]}
    beside = {os.path.split(path)[0] for path in named}
    named |= {row["reference_audio"] for row in rows if isinstance(row["reference_audio"], str)}
    labelled = Counter(folder for path in named if (folder := os.path.split(path)[0]) in beside)
    for folder, count in labelled.items():
        audio = sum(os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES for name in folders.names(folder))
        report.unlabelled += max(0, audio - count)
