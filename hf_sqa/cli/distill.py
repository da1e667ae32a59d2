"""`hf-sqa distill`: train a small model to judge as a large one does, on speech that nobody rated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.stopping import ends_of_training, stop

AGREEMENT = "agreement.json"
#: Recordings that were not used, told one by one; `training_result.json` has all.
TOLD = 5


def distill(
    recipe: Annotated[
        str, typer.Argument(help="A recipe (YAML), such as train_scripts/recipes/distilled_sqa-s.yaml.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to it: `student.size=xs`, `labels.num_windows=2000`, `speech.folder=calls/`, `output_dir=mine`.",
            metavar="[KEY=VALUE]...",
            show_default=False,
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
) -> None:
    """Distil a student from one teacher or several, by a recipe.

    Windows of degraded speech are made and labelled once and kept in `labels.folder`; the same command goes on where it was
    stopped, in labelling and in training. Recordings that hold no speech are counted, named and left out. The output folder holds
    the student, the recipe and its result.

    Examples:

    - `hf-sqa distill train_scripts/recipes/distilled_sqa-s.yaml --test`
    - `hf-sqa distill train_scripts/recipes/distilled_sqa-xs.yaml speech.bench=null speech.folder=calls/ output_dir=mine`
    """
    from hf_sqa.cli.quiet import quiet
    from hf_sqa.distillation.recipe import load_distillation

    quiet()
    with ends_of_training("labels done are kept, and the same command goes on"):
        loaded = load_distillation(recipe, changes or [])
        if dry_run:
            _dry_run(loaded)
            return
        from hf_sqa.distillation.run import distill as run

        with _progress("windows labelled") as progress:
            if labels_only:
                _only_label(loaded, progress)
                return
            result = run(loaded, resume=resume, overwrite=overwrite, progress=progress)
    _print_result(result)
    if test:
        _test(loaded, result)


def _only_label(recipe: Any, progress: Callable[[int, int], None]) -> None:
    from hf_sqa.distillation.run import label, make_windows
    from hf_sqa.distillation.teacher import load_teacher
    from hf_sqa.training.run import build_model

    if recipe.labels.folder is None or recipe.labels.num_windows is None:
        raise ValueError("Expected `labels.folder` and `labels.num_windows` for --labels-only, got a recipe without.")
    maker = make_windows(recipe, build_model(recipe.student, recipe.loss))
    cache = label(recipe, maker, [load_teacher(one) for one in recipe.teachers], progress)
    counts = {split: len(cache.shards(split)) * 64 for split in maker.pool.splits}
    typer.echo(f"Windows in {cache.folder}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}")
    _tell_excluded(cache.excluded)


def _test(recipe: Any, result: Any) -> None:
    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.data.windows import WindowCache
    from hf_sqa.distillation.agreement import teacher_agreement
    from hf_sqa.distillation.teacher import load_teacher

    if recipe.labels.folder is None:
        stop(ValueError("Expected `labels.folder` for --test: windows of the test talkers are kept there."))
    student = load_checkpoint(result.output_dir).model
    teachers = [load_teacher(one) for one in recipe.teachers]
    cache = WindowCache(recipe.labels.folder)
    found = teacher_agreement(student, cache, teachers, recipe.teachers, num_windows=recipe.labels.num_windows)
    Path(result.output_dir, AGREEMENT).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in student.config.score_names:
        lcc, rmse = found[name]["utt_lcc"], found[name]["utt_rmse"]
        typer.echo(
            f"{name} with the teacher on {found['num_windows']:,} windows of test talkers: LCC {lcc['value']:.4f} "
            f"[{lcc['low']:.4f}, {lcc['high']:.4f}], RMSE {rmse['value']:.3f} [{rmse['low']:.3f}, {rmse['high']:.3f}]"
        )


def _dry_run(recipe: Any) -> None:
    import yaml

    from hf_sqa.distillation.run import dry_run_distillation

    print(yaml.safe_dump(recipe.content, sort_keys=False, allow_unicode=True, width=130).rstrip())
    result = dry_run_distillation(recipe)
    losses = ", ".join(f"{entry['loss']:.3f}" for entry in result.history if "loss" in entry)
    print(f"\nTwo steps with tiny models on made-up recordings: loss {losses}. The recipe works.")


def _print_result(result: Any) -> None:
    told = {name.removeprefix("eval_"): value for name, value in result.metrics.items()}
    chosen = [f"{name} {told[name]:.4f}" for name in ("utt_lcc", "utt_srcc", "utt_rmse") if name in told]
    typer.echo(f"With the teachers on {result.num_validation:,} windows of validation talkers: {', '.join(chosen)}")
    typer.echo(
        f"{result.num_train:,} windows trained on; best step {result.best_step} of {result.num_steps}; {result.seconds:,.0f} s"
    )
    if result.excluded:
        typer.echo("Left out: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(result.excluded.items())))
    _tell_excluded(result.failures)
    typer.echo(f"The student is in {result.output_dir}: hf-sqa score --model {result.output_dir} ...")


def _tell_excluded(reasons: dict[str, str]) -> None:
    for name, reason in list(reasons.items())[:TOLD]:
        typer.echo(f"  {name}: {reason}", err=True)
    if len(reasons) > TOLD:
        typer.echo(f"  ... and {len(reasons) - TOLD} more", err=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error if that is a terminal; it goes away when all is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task: Any = None

    def update(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task("", total=total)
        bar.update(task, completed=done)
        if done >= total:
            bar.stop()

    try:
        yield update
    finally:
        bar.stop()
