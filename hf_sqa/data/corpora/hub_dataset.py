"""Read rated data sets of the Hugging Face Hub: columns are found by usual names; audio stays undecoded in its mapped files."""

from collections.abc import Mapping, Sequence

from hf_sqa.data.corpora.own_table import find_columns
from hf_sqa.data.schema import SPLITS, Row, import_datasets, undecoded


def read_hub(
    repo_id: str, split: str | None, revision: str | None, columns: Mapping[str, str], score_names: Sequence[str]
) -> tuple[list[Row], dict[str, str]]:
    """Return rows for `hf_sqa.data.schema.examine`, and the column taken for each name of the schema.

    `repo_id` may be a local folder. `split` is named as on the Hub; without it, all splits are read. Rows with embedded audio carry
    `embedded`: a data set whose only column is `audio`, and the number of their row in it.
    """
    datasets = import_datasets()
    import pyarrow.compute

    loaded = datasets.load_dataset(repo_id, split=split, revision=revision)
    parts = {split: loaded} if split is not None else dict(loaded)
    rows: list[Row] = []
    found: dict[str, str] = {}
    recordings = []
    for name, part in parts.items():
        found = find_columns(part.column_names, columns, f"the split {name!r} of {repo_id}", score_names)
        part = undecoded(part)
        audio = part.select_columns([found["audio"]])
        if isinstance(part.features[found["audio"]], datasets.Audio):
            audio = audio.rename_column(found["audio"], "audio") if found["audio"] != "audio" else audio
            paths = pyarrow.compute.struct_field(audio.with_format(None).data.column("audio"), "path").to_pylist()
            recordings.append(audio)
        else:
            paths = list(audio[found["audio"]])
        part = part.select_columns([column for column in found.values() if column != found["audio"]])
        for number, (record, path) in enumerate(zip(part, paths, strict=True)):
            row: Row = {schema_name: record[column] for schema_name, column in found.items() if schema_name != "audio"}
            row["split"] = SPLITS.get(str(row.get("split") or name).lower(), row.get("split") or name)
            row["where"] = f"{name} row {number}"
            row["audio"] = path
            if recordings:
                identifier = str(row.get("utterance_id") or path or row["where"])
                row["utterance_id"] = row.get("utterance_id") or identifier.rsplit("/", 1)[-1].rsplit(".", 1)[0]
                row["audio"] = {"path": path or identifier, "bytes": None}
            rows.append(row)
    if recordings:
        embedded = datasets.concatenate_datasets(recordings)
        for number, row in enumerate(rows):
            row["embedded"] = (embedded, number)
    return rows, found
