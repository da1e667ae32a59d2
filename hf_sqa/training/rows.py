"""Load, filter, draw and split the rows of a recipe, and count those left out by reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_sqa.data.corpora.loading import read_corpus
from hf_sqa.data.schema import build_dataset, import_datasets
from hf_sqa.data.splits import nested_subsets, stratified_split, training_set
from hf_sqa.training.pseudo_label import read_pseudo_labels, with_pseudo_labels
from hf_sqa.training.recipe import Recipe, Source

#: Options of a source for reading it.
READING = ("columns", "scale", "ratings", "join", "language", "split", "revision")


def load_rows(recipe: Recipe, notes: list[str] | None = None) -> tuple[Any, Any, Counter[str]]:
    """Load the rows of a recipe: to train on, to validate on (`None` if there are none), and how many were left out by reason.

    Raises:
        FileNotFoundError, ValueError: As [`~hf_sqa.data.load_corpus`], or if no row is left to train on.
    """
    notes = notes if notes is not None else []
    data = recipe.data
    excluded: Counter[str] = Counter()
    if not data.train:
        raise ValueError("Expected `data.train` to name the training rows, such as [{table: mine.csv}], got none.")
    rows = _filtered(_load_sources(data.train, excluded, "data.train"), data.filter, "data.filter", excluded)
    validation = None
    if data.validation is not None:
        validation = _load_sources(data.validation, excluded, "data.validation")
    elif data.split is not None:
        rows, validation = split_rows(rows, recipe, notes)
    elif data.training_set is not None:
        drawn = training_set(data.training_set, rows, seed=data.seed)
        notes.append(f"{data.training_set}: {drawn}")
        rows, validation = rows.select(drawn.train), rows.select(drawn.validation)
    else:
        rows, validation = _by_own_split(rows, excluded)
    if not len(rows):
        raise ValueError("Expected training rows, got none: all rows of `data.train` are set aside for validation or tests.")
    if data.limit is not None:
        rows = _limited(rows, data.limit, data.seed)
    return rows, validation, excluded


def split_rows(rows: Any, recipe: Recipe, notes: list[str]) -> tuple[Any, Any]:
    """Split rated rows into training and validation rows, as `data.split` of a recipe says."""
    split = recipe.data.split
    assert split is not None
    score, is_rated = "mos", np.zeros(len(rows), bool)
    for name in [*(recipe.model.scores or []), "mos"]:
        if name in rows.column_names and (rated := _is_rated(rows[name])).any():
            score, is_rated = name, rated
            break
    rows = rows if is_rated.all() else rows.select(np.flatnonzero(is_rated))
    parts = stratified_split(
        rows,
        validation_share=split.share,
        group_columns=split.group or (),
        score_column=score,
        corpus_column=_corpus_column(rows),
        seed=split.seed,
    )
    notes.append(f"split: {parts}")
    return rows.select(parts.train), rows.select(parts.validation)


def add_pseudo_labels(train: Any, validation: Any, recipe: Recipe, notes: list[str]) -> tuple[Any, Any]:
    """Add the labels of a recipe's table `data.pseudo_labels` to the rows."""
    table = read_pseudo_labels(str(recipe.data.pseudo_labels))
    names = [name for name in table.score_names if recipe.model.scores is None or name in recipe.model.scores]
    notes.append(f"pseudo-labels {', '.join(names)} by {table.teacher['teacher_id']}, weights {table.teacher['teacher_weights']}")
    train = with_pseudo_labels(train, table, score_names=names)
    return train, None if validation is None else with_pseudo_labels(validation, table, score_names=names)


def load_source(source: Source, excluded: Counter[str] | None = None, key: str = "") -> Any:
    """Load the rows of one source, filtered and drawn as it says, and add to `excluded` how many were left out by reason.

    Raises:
        FileNotFoundError, ValueError: As [`~hf_sqa.data.load_corpus`], or if no row meets the filter. If the source does not exist,
            the message names `key`, its place in the recipe, such as `data.train.0`.
    """
    excluded = Counter() if excluded is None else excluded
    try:
        examined = read_corpus(source.name, source.root, **{name: getattr(source, name) for name in READING})
    except FileNotFoundError as error:
        if not key:
            raise
        option = "root" if source.table is None else "table"
        raise FileNotFoundError(f"{error} The recipe names it by `{key}`: say where it is by `{key}.{option}=...`.") from error
    rows = build_dataset(examined, source.on_missing)
    if examined.num_missing:
        excluded["missing"] += examined.num_missing
    rows = _filtered(rows, source.filter, f"the filter of {source.name}", excluded)
    return rows if source.limit is None else _limited(rows, source.limit, 0)


def _load_sources(sources: Sequence[Source], excluded: Counter[str], key: str) -> Any:
    parts = [load_source(source, excluded, f"{key}.{number}") for number, source in enumerate(sources)]
    return parts[0] if len(parts) == 1 else import_datasets().concatenate_datasets(parts)


def _by_own_split(rows: Any, excluded: Counter[str]) -> tuple[Any, Any]:
    """Split rows as their corpus does: its validation rows validate, its test rows are left out."""
    parts = np.array([part or "train" for part in rows["split"]])
    if num_test := int((parts == "test").sum()):
        excluded["test split"] += num_test
    validation = rows.select(np.flatnonzero(parts == "validation"))
    rows = rows.select(np.flatnonzero((parts != "validation") & (parts != "test")))
    return rows, validation if len(validation) else None


def select_rows(rows: Any, conditions: Mapping[str, Any], place: str, *, every_value: bool = False) -> Any:
    """Select the rows that meet conditions by column: a value, a list of values, or `{min: ..., max: ...}`.

    Values are compared as text, an empty cell as `""`. With `every_value`, each value of a list must occur, not only one.

    Raises:
        ValueError: If a column or value does not exist, or no row meets all conditions; the message names `place`, where the
            conditions are written.
    """
    keep = np.ones(len(rows), bool)
    for column, condition in conditions.items():
        if column not in rows.column_names:
            raise ValueError(f"Expected a column ({', '.join(rows.column_names)}) of {place}, got {column!r}.")
        values = list(rows[column])
        if isinstance(condition, Mapping):
            if not condition or set(condition) - {"min", "max"}:
                raise ValueError(f"Expected `min` and `max` for {column!r} of {place}, got {dict(condition)!r}.")
            numbers = np.array(values, float)  # NaN for `None`
            keep &= (numbers >= condition.get("min", -np.inf)) & (numbers <= condition.get("max", np.inf))
            continue
        cells = [_as_text(value) for value in values]
        wanted = [_as_text(value) for value in (condition if isinstance(condition, list) else [condition])]
        if (absent := sorted(set(wanted) - set(cells))) and (every_value or len(absent) == len(set(wanted))):
            there = sorted(set(cells) - {""})
            known = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
            raise ValueError(f"Expected {column} of {place} to be one of {known or 'none'}, got {absent[0]!r}.")
        keep &= np.isin(cells, wanted)
    if not keep.any():
        raise ValueError(f"Expected rows that meet {place}, {dict(conditions)}, got none of {len(rows)}.")
    return rows if keep.all() else rows.select(np.flatnonzero(keep))


def _as_text(value: Any) -> str:
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def _filtered(rows: Any, conditions: Mapping[str, Any] | None, place: str, excluded: Counter[str]) -> Any:
    kept = select_rows(rows, conditions or {}, place)
    if len(kept) < len(rows):
        excluded["filter"] += len(rows) - len(kept)
    return kept


def _limited(rows: Any, limit: int, seed: int) -> Any:
    """Draw up to `limit` rows, keeping the score distribution if all rows are rated."""
    if limit >= len(rows):
        return rows
    if not _is_rated(rows["mos"]).all():
        return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False)))
    return rows.select(nested_subsets(rows, [limit], corpus_column=_corpus_column(rows), seed=seed)[limit])


def _is_rated(scores: Any) -> np.ndarray:
    return ~np.isnan(np.array(list(scores), float))


def _corpus_column(rows: Any) -> str | None:
    return "corpus" if "corpus" in rows.column_names and all(rows["corpus"]) else None
