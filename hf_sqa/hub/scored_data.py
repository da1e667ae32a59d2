"""Data sets with scores. Every score column stores the identity of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hf_sqa.data.schema import undecoded

IDENTITY_PREFIX = "hf_sqa:"


def add_scores(dataset: Any, scorer: Any, *, name: str | None = None, audio_column: str = "audio", batch_size: int = 1) -> Any:
    """Score a data set's recordings and add the scores as columns.

    Adds `<score>__<name>` (float, missing if a recording could not be scored), `status__<name>` and `reason__<name>`. The metadata
    of the score columns store the identity of the model ([`score_identities`] reads it); `push_to_hub`, `save_to_disk` and Parquet
    files keep it, and the card of a pushed data set shows it.

    Args:
        dataset (`datasets.Dataset`): Its audio is neither decoded nor changed.
        scorer ([`AudioQualityPipeline`]): The scoring pipeline, from `hf_sqa.pipeline(...)`.
        name (`str`, *optional*): Name of the model in the column names; the last part of its id if not given.
        audio_column (`str`, *optional*, defaults to `"audio"`): Column of the recordings.
        batch_size (`int`, *optional*, defaults to 1): Number of recordings scored together.

    Returns:
        `datasets.Dataset`: The data set with the added columns, rows in the same order.

    Raises:
        ValueError: If there is no such column, or a new column exists already.
    """
    import datasets

    if audio_column not in dataset.column_names:
        raise ValueError(f"Expected a column {audio_column!r} with recordings, got {', '.join(dataset.column_names)}.")
    identity = scorer.identity()
    name = name or str(identity["id"]).rsplit("/", 1)[-1]
    scores = scorer.model.config.score_names
    columns = [f"{score}__{name}" for score in scores] + [f"status__{name}", f"reason__{name}"]
    if taken := [column for column in columns if column in dataset.column_names]:
        raise ValueError(f"Expected new columns, got {', '.join(taken)}, which are there already; pass `name=` or remove them.")
    recordings = (row[audio_column] for row in undecoded(dataset.select_columns([audio_column])))
    rows = list(scorer(recordings, on_error="row", batch_size=batch_size))
    for score in scores:
        dataset = dataset.add_column(f"{score}__{name}", [row[score] for row in rows], feature=datasets.Value("float32"))
    for key in ("status", "reason"):
        dataset = dataset.add_column(f"{key}__{name}", [row[key] for row in rows], feature=datasets.Value("string"))
    return name_scores(dataset, {f"{score}__{name}": identity for score in scores})


def name_scores(dataset: Any, identities: Mapping[str, Mapping[str, Any]]) -> Any:
    """Store in the metadata of columns which model gave their values: its identity, as `scorer.identity()` returns it."""
    features = dataset.features.copy()
    for column, identity in identities.items():
        if column not in features:
            raise ValueError(f"Expected a column {column!r}, got {', '.join(features)}.")
        feature = features[column]
        feature.id = IDENTITY_PREFIX + json.dumps(dict(identity), sort_keys=True)
        features[column] = feature
    named = dataset.cast(features)
    named.info.features = features
    return named


def score_identities(dataset: Any) -> dict[str, dict[str, Any]]:
    """Return the identity of the model behind every score column of a data set; columns of unknown origin are left out."""
    found = {}
    for column, feature in dataset.features.items():
        identity = getattr(feature, "id", None)
        if isinstance(identity, str) and identity.startswith(IDENTITY_PREFIX):
            found[column] = json.loads(identity.removeprefix(IDENTITY_PREFIX))
    return found
