"""`hf-sqa distill`: train a small model to judge as a large one does, on speech that nobody rated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.shipped import list_option
from hf_sqa.cli.stopping import ends_of_training, need_extra, stop
from hf_sqa.progress import bar

AGREEMENT = "agreement.json"
#: Unused recordings that are printed; `training_result.json` has all of them.
NUM_SHOWN = 5


def distill(
    recipe: Annotated[str, typer.Argument(help="A recipe: its name, such as `distilled_sqa-s` see `--list`; or a YAML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to it: `student.size=xs`, `labels.num_windows=2000`, `speech.folder=calls/`, `output_dir=mine`.",
            metavar="[KEY=VALUE]...",
        ),
    ] = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Make and label windows; train nothing.")] = False,
    test: Annotated[
        bool, typer.Option("--test", help="At the end, measure agreement with the teacher on the talkers set aside for tests.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, and take two steps with tiny models on made-up recordings.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete another run in the output folder.")] = False,
    list_recipes: Annotated[bool, list_option("recipes", "distill")] = False,
) -> None:
    """Distil a student from one teacher or several, by a recipe.

    Windows of degraded speech are made and labelled once, and kept in `labels.folder`. A command that was stopped goes on where it
    was, in labelling and in training. Recordings without speech are counted, named and left out. The output folder holds the
    student, the recipe and the result.

    Examples:

    - `hf-sqa distill distilled_sqa-s --test`
    - `hf-sqa distill distilled_sqa-xs speech.bench=null speech.folder=calls/ output_dir=mine`
    """
    need_extra("`hf-sqa distill`", "train", "accelerate", "datasets")
    from hf_sqa.cli.quiet import quiet
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
    _print_result(result)
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
    _print_excluded(cache.excluded)


def _test(recipe: Any, result: Any) -> None:
    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.data.windows import WindowCache
    from hf_sqa.distillation.agreement import teacher_agreement
    from hf_sqa.distillation.teacher import load_teacher

    if recipe.labels.folder is None:
        stop(ValueError("Expected `labels.folder` for --test: windows of the test talkers are kept there."))
    student = load_checkpoint(result.output_dir).model
    teachers = [load_teacher(options) for options in recipe.teachers]
    cache = WindowCache(recipe.labels.folder)
    agreement = teacher_agreement(student, cache, teachers, recipe.teachers, num_windows=recipe.labels.num_windows)
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


def _print_result(result: Any) -> None:
    metrics = {name.removeprefix("eval_"): value for name, value in result.metrics.items()}
    chosen = [f"{name} {metrics[name]:.4f}" for name in ("utt_lcc", "utt_srcc", "utt_rmse") if name in metrics]
    typer.echo(f"With the teachers on {result.num_validation:,} windows of validation talkers: {', '.join(chosen)}")
    typer.echo(
        f"{result.num_train:,} windows trained on; best step {result.best_step} of {result.num_steps}; {result.seconds:,.0f} s"
    )
    if result.excluded:
        typer.echo("Left out: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(result.excluded.items())))
    _print_excluded(result.failures)
    typer.echo(f"The student is in {result.output_dir}: hf-sqa score --model {result.output_dir} ...")


def _print_excluded(reasons: dict[str, Any]) -> None:
    for name, reason in list(reasons.items())[:NUM_SHOWN]:
        typer.echo(f"  {name}: {reason}", err=True)
    if len(reasons) > NUM_SHOWN:
        typer.echo(f"  ... and {len(reasons) - NUM_SHOWN} more", err=True)
