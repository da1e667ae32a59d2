"""The clips of a study: its sets, the draws of its models, and the overlap of training and test sets."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.data.schema import import_datasets
from hf_sqa.evaluation.suite import OVERLAP_MARKS
from hf_sqa.runs import digest_of
from hf_sqa.studies.study_file import PARTS, ModelSpec, PartsSpec, Study
from hf_sqa.training.rows import load_rows, load_source, select_rows


class StudyData:
    """The sets of a study. A corpus is read, and a set selected, when first needed, once per process."""

    def __init__(self, study: Study):
        self._study = study
        self._corpora: dict[str, Any] = {}
        self._sets: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._files = _FileDigests()

    def select(self, name: str) -> Any:
        """Return the clips of a set, a `datasets.Dataset`."""
        if name not in self._sets:
            self._sets[name] = self._selected(name)
        return self._sets[name]

    def _selected(self, name: str) -> Any:
        entry = self._study.sets[name]
        parts = [self._corpus(corpus) for corpus in entry.corpora]
        dataset = parts[0] if len(parts) == 1 else import_datasets().concatenate_datasets(parts)
        place = f"the set {name!r}"
        dataset = select_rows(dataset, entry.where, place, every_value=True)
        return select_rows(dataset, {entry.rated: {"min": -np.inf}}, place) if entry.rated else dataset

    def for_training(self, model: ModelSpec, seed: int) -> tuple[Any, Any]:
        """Return training and validation clips of a model and seed, `None` for those that the model does not name."""
        from hf_sqa.data.splits import nested_subsets, stratified_split, training_set

        if model.train is None:
            return None, None
        train = self.select(model.train)
        if model.training_set is not None:
            drawn = training_set(model.training_set, train, seed=seed)
            return train.select(drawn.train), train.select(drawn.validation)
        if model.clips is not None:
            sizes = sorted({other.clips for other in self._study.models if other.train == model.train and other.clips is not None})
            train = train.select(nested_subsets(train, sizes, seed=seed)[model.clips])
        if isinstance(model.validation, str):
            return train, self.select(model.validation)
        if model.validation is None:
            return train, None
        groups = model.validation_group or ()
        split = stratified_split(train, validation_share=float(model.validation), group_columns=groups, seed=seed)
        return train.select(split.train), train.select(split.validation)

    def seen(self, model: ModelSpec, seed: int | None) -> list[Any] | None:
        """Return all data sets that a model, and the models it needs, have seen in training and validation.

        `None` if they are unknown: for a checkpoint, or a maker that brings its own data, without `trained_on`.
        """
        if model.checkpoint is None and seed is not None:
            datasets = [dataset for dataset in self.for_training(model, seed) if dataset is not None]
        else:
            datasets = []
        datasets += [self.select(name) for name in model.trained_on or ()]
        if not datasets and model.trained_on is None:
            rows = self._own_rows(model)
            if rows is None:
                return None
            datasets = rows
        for name in model.needs:
            further = self.seen(self._study.model(name), self._study.seed_of(name, seed))
            if further is None:
                return None
            datasets += further
        return datasets

    def _own_rows(self, model: ModelSpec) -> list[Any] | None:
        """Return the rows that the recipe of a model names itself; `None` for a recipe that names none, such as distillation."""
        recipe = self._study.training_recipe(model)
        if recipe is None or not recipe.data.train:
            return None
        train, validation, _ = load_rows(recipe)
        return [train] if validation is None else [train, validation]

    def digest(self, name: str) -> str:
        """Return a digest of the clips of a set: file names and labels, not their folder."""
        if name not in self._digests:
            self._digests[name] = _dataset_digest(self.select(name))
        return self._digests[name]

    def overlap(self, trained_on: Sequence[Any], test: Any) -> dict[str, Any]:
        """Count the clips of a test set that were trained on; see [`find_overlap`]."""
        return find_overlap(trained_on, test, self._files)

    def _corpus(self, name: str) -> Any:
        if name not in self._corpora:
            dataset = load_source(self._study.corpora[name])
            if name in self._study.parts:
                dataset = dataset.add_column("part", _parts(dataset, name, self._study.parts[name]))
            self._corpora[name] = dataset
        return self._corpora[name]


def _parts(dataset: Any, name: str, spec: PartsSpec) -> list[str | None]:
    from hf_sqa.data.splits import stratified_split

    groups, scores = list(dataset[spec.group]), np.array(dataset["mos"], dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(scores) & np.array([group is not None for group in groups]))
    if not len(rows):
        raise ValueError(f"Expected clips of {name!r} with mos and {spec.group} to divide it into parts, got none.")
    part_of: dict[Any, str] = {}
    left, share_left = rows, 1.0
    shares = {part: spec.shares[part] for part in reversed(PARTS) if spec.shares.get(part)}
    for part in list(shares)[:-1]:
        columns = {
            "mos": scores[left],
            "group": [groups[row] for row in left],
            "corpus": [dataset[spec.within][int(row)] for row in left],
        }
        split = stratified_split(columns, validation_share=shares[part] / share_left, group_columns="group")
        part_of |= {groups[row]: part for row in left[split.validation]}
        left, share_left = left[split.train], share_left - shares[part]
    part_of |= {groups[row]: list(shares)[-1] for row in left}
    return [part_of.get(group) for group in groups]


def find_overlap(trained_on: Sequence[Any], test: Any, files: _FileDigests | None = None) -> dict[str, Any]:
    """Measure how much of a test set a model has seen in training or validation.

    Clips are the same if they have the same file (path or bytes), or the same corpus, utterance and labels. Sources and talkers are
    the same if they have the same name within the same corpus.

    Returns:
        `dict`: `overlap` (the most serious kind, a key of `OVERLAP_MARKS`, or None) and, in clips of the test set, `overlap_clips`,
        `overlap_sources` and `overlap_talkers`.
    """
    files = files or _FileDigests()
    trained, tested = [row for dataset in trained_on for row in files.described(dataset)], files.described(test)
    seen = {row[kind] for row in trained for kind in ("path", "clip", "source", "talker")}
    suspects = {row["size"] for row in tested} & {row["size"] for row in trained} - {-1}
    digests = {files.of(row) for row in trained if row["size"] in suspects}
    seen.discard(None)
    same_clip = [
        row["path"] in seen or row["clip"] in seen or (row["size"] in suspects and files.of(row) in digests) for row in tested
    ]
    counts = {
        "overlap_clips": sum(same_clip),
        "overlap_sources": sum(row["source"] in seen for row in tested),
        "overlap_talkers": sum(row["talker"] in seen for row in tested),
    }
    return {"overlap": next((kind for kind in OVERLAP_MARKS if counts.get(f"overlap_{kind}")), None), **counts}


class _FileDigests:
    """Descriptions of data sets, each made once, and SHA-256 of files, each read once. Only files of equal length are compared."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._described: dict[str, list[dict[str, Any]]] = {}

    def described(self, dataset: Any) -> list[dict[str, Any]]:
        """Return a row for each clip. Data sets with the same fingerprint hold the same clips."""
        if dataset._fingerprint not in self._described:
            self._described[dataset._fingerprint] = list(_described(dataset))
        return self._described[dataset._fingerprint]

    def of(self, row: Mapping[str, Any]) -> str:
        if row["digest"] is not None:
            return str(row["digest"])
        path = row["path"][1]
        if path not in self._known:
            with Path(path).open("rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]


def _described(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield what identifies each clip, its source and its talker; None if unknown."""
    texts, scores = ("corpus", "utterance_id", "source_id", "talker_id"), ("mos", "s_mos", "g_mos", "pesq")
    table = dataset.select_columns([name for name in (*texts, *scores) if name in dataset.column_names])[:]
    columns = {name: table[name] for name in texts if name in table}
    labels = [table[name] for name in scores if name in table]
    for index, audio in enumerate(dataset["audio"]):
        row = {name: values[index] for name, values in columns.items()}
        corpus, content = row.get("corpus"), audio.get("bytes")
        path = audio.get("path")
        there = content is None and path is not None and "://" not in path and os.path.isfile(path)
        rated = tuple(round(values[index], 9) for values in labels if not math.isnan(values[index]))
        yield {
            "path": ("path", os.path.realpath(path)) if there else None,
            "size": len(content) if content is not None else Path(path).stat().st_size if there else -1,
            "digest": None if content is None else hashlib.sha256(content).hexdigest(),
            "clip": ("clip", corpus, row["utterance_id"], rated) if row.get("utterance_id") and rated else None,
            "source": ("source", corpus, row["source_id"]) if row.get("source_id") else None,
            "talker": ("talker", corpus, row["talker_id"]) if row.get("talker_id") else None,
        }


def _dataset_digest(dataset: Any) -> str:
    features, columns = dataset.features, dataset[:]
    numbers = [name for name in dataset.column_names if features[name].dtype == "float64"]
    names = [os.path.basename(str(audio.get("path") or "")) for audio in columns["audio"]]
    known = [columns[name] for name in ("utterance_id", "condition_id", "source_id", *numbers) if name in columns]
    return digest_of([names, *([str(value) for value in column] for column in known)])
