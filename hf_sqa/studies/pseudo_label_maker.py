"""Makers of a study that learn from a teacher of the same study: MTQ-Net by pseudo-labels, and by knowledge transfer.

models:
  - {name: teacher, recipe: mosa_net.yaml, train: all, test_sets: []}
  - {name: MPL, maker: "hf_sqa.studies.pseudo_label_maker:with_pseudo_labels", needs: [teacher], train: rated}
  - {name: KT, maker: "hf_sqa.studies.pseudo_label_maker:with_knowledge", needs: [teacher], train: rated}
"""

from __future__ import annotations

import dataclasses
from typing import Any

from hf_sqa.studies.grid import MakeJob, train_by_recipe

TABLE = "pseudo_labels.csv"


def with_pseudo_labels(job: MakeJob) -> dict[str, Any]:
    """Score the clips of the job with its teacher, the first model it needs, and train on both kinds of labels.

    The table of pseudo-labels stays beside the model. Its recipe must name the teacher's scores among its own.
    """
    import hf_sqa.pipelines
    from hf_sqa.training.pseudo_label import pseudo_label

    clips = [row for part in (job.train, job.validation) if part is not None for row in _recordings(part)]
    table = pseudo_label(clips, hf_sqa.pipelines.pipeline(_teacher(job)), job.folder / TABLE)
    told = train_by_recipe(_changed(job, {"data.pseudo_labels": str(table.path)}))
    return {**told, "num_pseudo_labels": len(table.rows) - table.num_failed}


def with_knowledge(job: MakeJob) -> dict[str, Any]:
    """Train from the trunk of the job's teacher, the first model it needs."""
    return train_by_recipe(_changed(job, {"model.knowledge_from": _teacher(job)}))


def _teacher(job: MakeJob) -> str:
    if not job.needed:
        raise ValueError(f"Expected `needs` of the model {job.model.name!r} to name its teacher, got nothing.")
    return str(next(iter(job.needed.values())))


def _changed(job: MakeJob, changes: dict[str, Any]) -> MakeJob:
    return dataclasses.replace(job, model=dataclasses.replace(job.model, set={**job.model.set, **changes}))


def _recordings(dataset: Any) -> list[dict[str, Any]]:
    names = [name for name in ("audio", "utterance_id", "corpus") if name in dataset.column_names]
    return list(dataset.select_columns(names))
