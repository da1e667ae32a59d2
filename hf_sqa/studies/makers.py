"""Makers of a study's models: training, distillation, pruning, and learning from a teacher of the same study.

Each model in the study file names its maker:

    teacher: {recipe: mosa_net.yaml, train: all, test_sets: []}      # no maker: `train`
    MPL: {maker: pseudo_labels, needs: [teacher], train: rated}
    KT: {maker: knowledge_transfer, needs: [teacher], train: rated}
    student: {maker: distill, needs: [teacher], train: rated, recipe: distilled_sqa-xs.yaml}
    pruned: {maker: prune, needs: [teacher], options: {target: 0.5, calibration: labels}}
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sqa.options import with_values
from hf_sqa.runs import move_into
from hf_sqa.studies.study_file import ModelSpec

PSEUDO_LABELS_FILE = "pseudo_labels.csv"


@dataclass(frozen=True)
class MakeJob:
    """The input of a maker. The maker writes a loadable checkpoint (weights, configuration, feature extractor) into `folder`."""

    folder: Path  # Empty, or as an interrupted attempt at the same job left it. Everything in it at the end is kept
    model: ModelSpec  # The model to make
    seed: int  # Seed of everything random
    train: Any  # A `datasets.Dataset` in the schema of [`~hf_sqa.data.load_corpus`], or `None`
    validation: Any  # The same
    recipe: Any  # The recipe of the model or, if it has none, of the study: a `dict` or its path
    needed: Mapping[str, Path | str]  # Checkpoints of the models in `needs`: of the same seed if there is one, else of the first

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model.options

    def with_settings(self, settings: Mapping[str, Any]) -> MakeJob:
        """Return the same job with further changes to its recipe."""
        model = dataclasses.replace(self.model, set={**self.model.set, **settings})
        return dataclasses.replace(self, model=model)

    def teacher(self) -> str:
        """Checkpoint of the first model in `needs`."""
        if not self.needed:
            raise ValueError(f"Expected `needs` of the model {self.model.name!r} to name its teacher, got nothing.")
        return str(next(iter(self.needed.values())))


#: Function that makes a model and returns columns for the results table (`num_train`, `num_validation`, `train_seconds`, ...).
Maker = Callable[[MakeJob], Mapping[str, Any] | None]


def make_by_recipe(job: MakeJob) -> dict[str, Any]:
    """Maker `train`: run a recipe of `hf_sqa.training` on the clips of the job."""
    from hf_sqa.training import load_recipe, run_recipe

    if job.recipe is None:
        raise ValueError(f"Expected a recipe in the study, or for the model {job.model.name!r}, got none.")
    changes = {**job.model.set, "training.seed": job.seed, "output_dir": str(job.folder / "run")}
    content = with_values(load_recipe(job.recipe).to_dict(), changes)
    _check_encoder(content)
    sets = {"train_dataset": job.train, "validation_dataset": job.validation, "announce": lambda line: None}
    result = run_recipe(content, **sets, overwrite=True)  # an interrupted attempt may have had other data
    shutil.rmtree(job.folder / "run" / "checkpoints", ignore_errors=True)
    move_into(Path(result.output_dir), job.folder)
    (job.folder / "run").rmdir()
    return {
        "num_train": result.num_train,
        "num_validation": result.num_validation,
        "train_seconds": round(result.seconds, 2),
        "best_step": result.best_step,
    }


def _check_encoder(recipe: Mapping[str, Any]) -> None:
    """Refuse an encoder that exists neither on this machine nor on the Hub, and say how to name another."""
    from hf_sqa.blocks.speech_encoder import load_encoder_config
    from hf_sqa.checkpoints import resolve_checkpoint

    encoder = recipe["model"].get("encoder")
    if encoder is None:
        return
    try:
        load_encoder_config(resolve_checkpoint(encoder))
    except OSError as error:
        raise FileNotFoundError(
            f"Expected the speech encoder {encoder!r} as a folder or on the Hub, got neither. Name a folder with one: add "
            f"`encoder=<folder>` for a study that has this option, `recipe.model.encoder=<folder>` for others. {error}"
        ) from None


def make_with_pseudo_labels(job: MakeJob) -> dict[str, Any]:
    """Maker `pseudo_labels`: score the clips of the job with its teacher, and train on both kinds of labels.

    The recipe must list the teacher's scores among its own. The table of pseudo-labels stays beside the model.
    """
    import hf_sqa.pipelines
    from hf_sqa.training.pseudo_label import pseudo_label

    clips: list[dict[str, Any]] = []
    for dataset in filter(None, (job.train, job.validation)):
        clips += dataset.select_columns([name for name in ("audio", "utterance_id", "corpus") if name in dataset.column_names])
    table = pseudo_label(clips, hf_sqa.pipelines.pipeline(job.teacher()), job.folder / PSEUDO_LABELS_FILE)
    columns = make_by_recipe(job.with_settings({"data.pseudo_labels": str(table.path)}))
    return {**columns, "num_pseudo_labels": len(table.rows) - table.num_failed}


def make_with_knowledge(job: MakeJob) -> dict[str, Any]:
    """Maker `knowledge_transfer`: train from the trunk of the job's teacher."""
    return make_by_recipe(job.with_settings({"model.knowledge_from": job.teacher()}))


def make_by_distillation(job: MakeJob) -> dict[str, Any]:
    """Maker `distill`: train a student by a recipe of `hf_sqa.distillation`.

    The first model in `needs` replaces the recipe's first teacher. The clips of the job are its rated recordings, in the share
    `labelled.share`. The seed of the job is the seed of training; windows and labels come from the recipe and are the same for
    every seed.
    """
    from hf_sqa.distillation import distill, load_distillation
    from hf_sqa.training.recipe import read_content

    changes = {**job.model.set, "training.seed": job.seed, "output_dir": str(job.folder)}
    recipe = load_distillation(with_values(read_content(job.recipe)[0], changes))
    if job.needed:
        first = dataclasses.replace(recipe.teachers[0], checkpoint=job.teacher())
        recipe = dataclasses.replace(recipe, teachers=[first, *recipe.teachers[1:]])
    result = distill(recipe, announce=lambda line: None, rated=job.train)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return {"num_train": result.num_train, "num_validation": result.num_validation, "train_seconds": round(result.seconds, 2)}


def make_by_pruning(job: MakeJob) -> dict[str, Any]:
    """Maker `prune`: make a checkpoint smaller. The seed of the job is the seed of the repair.

    The model's `options` are those of [`~hf_sqa.pruning.PruningOptions`], `checkpoint` (if not given, the first model in `needs`,
    or the default model), and `calibration` and `num_windows` of [`~hf_sqa.pruning.load_calibration`].
    """
    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.pruning import PruningOptions, load_calibration, prune
    from hf_sqa.pruning.calibration import NUM_WINDOWS
    from hf_sqa.pruning.prune import REPORT, save_model

    options = dict(job.options)
    if "calibration" not in options:
        given = ", ".join(options) or "none"
        raise ValueError(f"Expected `calibration` among the options of the model {job.model.name!r}, got {given}.")
    model = load_checkpoint(options.pop("checkpoint", job.teacher() if job.needed else "default"), merge=True).model
    speech = load_calibration(options.pop("calibration"), model, options.pop("num_windows", NUM_WINDOWS))
    result = prune(model, speech, PruningOptions(**options, seed=job.seed), folder=job.folder / "steps")
    save_model(result.model, job.folder)
    (job.folder / REPORT).write_text(json.dumps(result.report(), indent=1), encoding="utf-8")
    shutil.rmtree(job.folder / "steps", ignore_errors=True)  # the folder does not exist if nothing could be removed
    last = result.steps[-1].after_repair if result.steps else {}
    return {
        "num_train": len(speech.repair),
        "num_validation": len(speech.held_out),
        "train_seconds": round(sum(step.seconds for step in result.steps), 2),
        **{f"with_unpruned_{name}": value for name, value in last.items()},
    }


MAKERS: dict[str, Maker] = {
    "train": make_by_recipe,
    "pseudo_labels": make_with_pseudo_labels,
    "knowledge_transfer": make_with_knowledge,
    "distill": make_by_distillation,
    "prune": make_by_pruning,
}


def find_maker(name: str, makers: Mapping[str, Maker] | None = None) -> Maker:
    """Find a maker by name among those passed to [`run_study`] and `MAKERS`."""
    known = {**MAKERS, **(makers or {})}
    if name not in known:
        raise ValueError(
            f"Expected the maker to be one of {', '.join(known)}, got {name!r}; pass a maker of your own to "
            "`run_study(study, folder, makers={name: function})`."
        )
    return known[name]
