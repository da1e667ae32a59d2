"""IU Bloomington corpus: COSINE (noise) and VOiCES (reverberation), rated by MUSHRA.

Paper:  Dong and Williamson, "A Pyramid Recurrent Network for Predicting Crowdsourced Speech-Quality Ratings of Real-World Signals",
        Interspeech 2020.
Layout: the names of its files are published nowhere that we know. Any CSV below the folder with a column of paths and one of scores
        is read; `cosine` or `voices` in a path, or in the CSV's name, says the part.
Scale:  ratings of 0-100, released normalised to 0-10. `mos = 1 + 4 * score / 10`, or `/ 100` where a score exceeds 10. Scores that
        all lie within 1-5 could be of any scale: the reader then asks for `scale`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_sqa.data import tables
from hf_sqa.data.corpora.corpus import Corpus, locate, read_csv
from hf_sqa.data.corpora.own_table import find_columns
from hf_sqa.data.schema import Row

PARTS = ("cosine", "voices")


def read(root: Path, parts: Sequence[str]) -> Iterator[Row]:
    for path in locate(root, "IU Bloomington", "*.csv"):
        header, _ = tables.read_table(path)
        columns = find_columns(header, {}, str(path))
        for cells, where in read_csv(path, (), "IU Bloomington"):
            name = cells[columns["audio"]]
            text = f"{path.stem}/{name}".lower()
            part = next((part for part in PARTS if part in text), None)
            if part is None:
                raise ValueError(
                    f"Expected 'cosine' or 'voices' in the paths or the name of the label file of IU Bloomington, got {name!r} "
                    f"in {str(path)!r}; rename the file to tell the parts apart."
                )
            if part in parts:
                yield {
                    "audio": f"{path.parent}/{name}",
                    "mos": cells[columns["mos"]],
                    "corpus": f"iub/{part}",
                    "where": where,
                }


def detect_scale(scores: Sequence[float]) -> tuple[float, float]:
    """`(0, 10)` or `(0, 100)`, whichever the scores tell.

    Raises:
        ValueError: If all lie within 1-5: they may be of 0-10, or brought to 1-5 already.
    """
    if max(scores) > 10:
        return 0.0, 100.0
    if max(scores) > 5 or min(scores) < 1:
        return 0.0, 10.0
    raise ValueError(
        f"The scores of IU Bloomington lie within {min(scores):g}-{max(scores):g}: that is 0-10, or 1-5 after a rescaling. "
        "Say which with `scale=(0, 10)` or `scale=(1, 5)` (`--scale 0 10`)."
    )


CORPUS = Corpus(
    name="iub",
    title="IU Bloomington COSINE and VOiCES (ConferencingSpeech 2022)",
    language="en",
    clips={"cosine": {"": 18_000}, "voices": {"": 18_000}},
    size="about 45 h",
    licence="unknown",
    source="https://drive.google.com/drive/folders/1wIgOqnKA1U-wZQrU8eb67yQyRVOK3SnZ",
    read=read,
    scale=(0.0, 10.0),
    sampling_rate=16_000,
    detect_scale=detect_scale,
)
