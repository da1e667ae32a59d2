"""`hf-sqa train`: train or fine-tune a model by a recipe."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

NOTHING_SAVED = "hf-sqa: interrupted before there was anything to save."
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe (YAML), such as one of train_scripts/recipes.", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to it: `training.learning_rate=1e-4`, `data.train.0.root=/data/NISQA`, `output_dir=mine`.",
            metavar="[KEY=VALUE]...",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen, and take two steps with a tiny model on made-up clips.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete another run in the output folder.")] = False,
) -> None:
    """Train or fine-tune a model by a recipe.

    The output folder holds the best weights with all that is needed to load them, the recipe and its result. Ctrl-C saves a
    checkpoint and exits with 130; the same command goes on from the newest complete one. Several processes:
    `torchrun --nproc_per_node 2 train_scripts/train.py recipe.yaml`.
    """
    from hf_sqa.runs import Locked
    from hf_sqa.training.recipe import load_recipe

    try:
        loaded = load_recipe(recipe, changes or [])
        if dry_run:
            _dry_run(loaded)
            return
        from hf_sqa.training.run import Interrupted, TrainingError, run_recipe
    except (OSError, ValueError, TypeError, ImportError) as error:
        _stop(error, EXIT_USAGE)
    try:
        result = run_recipe(loaded, resume=resume, overwrite=overwrite)
    except Interrupted as interrupted:
        where = (
            f"saved in {interrupted.checkpoint}; the same command goes on" if interrupted.checkpoint else "nothing was saved yet"
        )
        typer.echo(f"hf-sqa: interrupted: {where}.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except KeyboardInterrupt:
        typer.echo("hf-sqa: interrupted; the same command goes on from the last checkpoint, if there is one.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except TrainingError as error:
        _stop(error, EXIT_FAILED)
    except (OSError, ValueError, TypeError, ImportError, Locked) as error:
        _stop(error, EXIT_USAGE)
    if _is_first_process():
        _print_result(result)


def _print_result(result: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    told = {name.removeprefix("eval_"): value for name, value in result.metrics.items()}
    chosen = [name for name in told if name.rsplit("_", 1)[-1] in ("srcc", "lcc", "rmse", "loss")]
    if chosen:
        table = Table("validation", "", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for name in chosen:
            table.add_row(name, f"{told[name]:.3f}")
        console.print(table)
    step = f"best step {result.best_step} of {result.num_steps}" if result.best_step is not None else f"{result.num_steps} steps"
    console.print(f"{result.num_train:,} clips trained on, {result.num_validation:,} validated; {step}; {result.seconds:,.0f} s")
    if result.excluded:
        console.print("Left out: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(result.excluded.items())))
    for source, message in list(result.failures.items())[:5]:
        console.print(f"  {message if source in message else f'{source}: {message}'}")
    console.print(f"The model is in {result.output_dir}: hf-sqa score --model {result.output_dir} ...")


def _dry_run(recipe: Any) -> None:
    from pathlib import Path

    import yaml

    from hf_sqa.training.dry_run import check_names, dry_run_recipe

    check_names(recipe)
    print(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=130).rstrip())
    print()
    for source in [*recipe.data.train, *(recipe.data.validation or [])]:
        place = source.root or source.table
        if source.hub is not None:
            print(f"{source.name}: on the Hub, not looked at")
        elif place is not None and not Path(place).exists():
            print(f"{source.name}: {place!r} is not there")
        elif place is not None:
            print(f"{source.name}: found in {place!r}")
        else:
            print(f"{source.name}: no root given; name it with data.train.<number>.root=<folder>")
    result = dry_run_recipe(recipe)
    losses = ", ".join(f"{entry['loss']:.3f}" for entry in result.history if "loss" in entry)
    print(f"Two steps with a tiny model on {result.num_train} made-up clips: loss {losses}. The recipe works.")


def _is_first_process() -> bool:
    import os

    return int(os.environ.get("RANK", "0")) == 0


def _stop(error: Exception, code: int) -> Any:
    if _is_first_process() or not isinstance(error, ValueError):
        typer.echo(f"hf-sqa: {error}", err=True)
    sys.stdout.flush()
    raise typer.Exit(code)
