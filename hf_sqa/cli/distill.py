"""`hf-sqa distill`: trains a small model to score like a large one, on speech that nobody rated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import Changes, Overwrite, Resume
from hf_sqa.cli.shipped import list_option
from hf_sqa.cli.stopping import ends_of_training, need_extra, quiet, say_first, stop
from hf_sqa.cli.tables import print_training
from hf_sqa.progress import bar

AGREEMENT = "agreement.json"


def distill(
    recipe: Annotated[str, typer.Argument(help="A recipe: its name, such as `distilled_sqa-s` (see `--list`), or a YAML file.")],
    changes: Changes = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Make and label windows; train nothing.")] = False,
    test: Annotated[
        bool, typer.Option("--test", help="At the end, measure agreement with the teacher on the talkers set aside for tests.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, and take two steps with tiny models on made-up recordings.")
    ] = False,
    resume: Resume = True,
    overwrite: Overwrite = False,
    list_recipes: Annotated[bool, list_option("recipes", "distill")] = False,
) -> None:
    """Distil a student from one or several teachers, following a recipe.

    Windows of degraded speech are made and labelled once, and kept in `labels.folder`. The same command resumes a stopped run, in
    labelling and in training. Recordings without speech are counted, named and left out. The output folder holds the student, the
    recipe and the result.

    Examples:

    - `hf-sqa distill distilled_sqa-s --test`
    - `hf-sqa distill distilled_sqa-xs speech.bench=null speech.folder=calls/ output_dir=mine`
    """
    need_extra("`hf-sqa distill`", "train", "accelerate", "datasets")
    from hf_sqa.distillation.recipe import load_distillation

    quiet()
    with ends_of_training("labels done are kept, and the same command goes on"):
        loaded = load_distillation(recipe, changes or [])
        if dry_run:
            _dry_run(loaded)
            return
        from hf_sqa.distillation.run import distill as run

        with bar("windows labelled") as progress:
            if labels_only:
                _only_label(loaded, progress)
                return
            result = run(loaded, resume=resume, overwrite=overwrite, progress=progress)
    print_training(result, "with the teachers, validation talkers", "windows")
    if test:
        _test(loaded, result)


def _only_label(recipe: Any, progress: Callable[..., None]) -> None:
    from hf_sqa.distillation.run import label, make_windows
    from hf_sqa.distillation.teacher import load_teacher
    from hf_sqa.training.model import build_model

    if recipe.labels.folder is None or recipe.labels.num_windows is None:
        raise ValueError("Expected `labels.folder` and `labels.num_windows` for --labels-only, got a recipe without.")
    maker = make_windows(recipe, build_model(recipe.student, recipe.loss.on_scores))
    cache = label(recipe, maker, [load_teacher(options) for options in recipe.teachers], progress)
    counts = {split: len(cache.shards(split)) * 64 for split in maker.pool.splits}
    typer.echo(f"Windows in {cache.folder}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}")
    say_first([f"{name}: {reason}" for name, reason in cache.excluded.items()])


def _test(recipe: Any, result: Any) -> None:
    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.data.windows import WindowCache
    from hf_sqa.distillation.agreement import teacher_agreement
    from hf_sqa.distillation.teacher import load_teacher

    if recipe.labels.folder is None:
        stop("Expected `labels.folder` for --test: windows of the test talkers are kept there.")
    student = load_checkpoint(result.output_dir).model
    teachers = [load_teacher(options) for options in recipe.teachers]
    cache = WindowCache(recipe.labels.folder)
    agreement = teacher_agreement(student, cache, teachers, num_windows=recipe.labels.num_windows)
    Path(result.output_dir, AGREEMENT).write_text(json.dumps(agreement, indent=1) + "\n", encoding="utf-8")
    for name in student.config.score_names:
        lcc, rmse = agreement[name]["utt_lcc"], agreement[name]["utt_rmse"]
        typer.echo(
            f"{name} with the teacher on {agreement['num_windows']:,} windows of test talkers: LCC {lcc['value']:.4f} "
            f"[{lcc['low']:.4f}, {lcc['high']:.4f}], RMSE {rmse['value']:.3f} [{rmse['low']:.3f}, {rmse['high']:.3f}]"
        )


def _dry_run(recipe: Any) -> None:
    from hf_sqa.distillation.run import dry_run_distillation
    from hf_sqa.options import dump_yaml

    print(dump_yaml(recipe.to_dict()))
    result = dry_run_distillation(recipe)
    losses = ", ".join(f"{entry['loss']:.3f}" for entry in result.history if "loss" in entry)
    print(f"\nTwo steps with tiny models on made-up recordings: loss {losses}. The recipe works.")
