"""`hf-sqa train`: trains or fine-tunes a model from a recipe."""

from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import Changes, Overwrite, Resume
from hf_sqa.cli.shipped import list_option
from hf_sqa.cli.stopping import ends_of_training, is_first_process, need_extra
from hf_sqa.cli.tables import print_agreement, print_training
from hf_sqa.progress import bar


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: its name, such as `w2v-ger` (see `--list`), or a YAML file.")],
    changes: Changes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, and take two steps with a tiny model on generated clips.")
    ] = False,
    resume: Resume = True,
    overwrite: Overwrite = False,
    list_recipes: Annotated[bool, list_option("recipes", "train")] = False,
) -> None:
    """Train or fine-tune a model from a recipe.

    The output folder holds the best weights with everything needed to load them, the recipe and the result. Ctrl-C saves a
    checkpoint and exits with 130; the same command resumes from the newest complete one. At the end, the test sets of the recipe's
    section `evaluation` are scored: `results.md` in the output folder has the table, `results.csv` all numbers. For several
    processes: `torchrun --nproc_per_node 2 -m hf_sqa train w2v-ger`.

    Examples:

    - `hf-sqa train --list`
    - `hf-sqa train w2v-ger data.train.0.root=/data/NISQA_Corpus 'evaluation=[]' output_dir=w2v_ger`
    """
    need_extra("`hf-sqa train`", "train", "accelerate", "datasets")
    with ends_of_training("the same command goes on from the last checkpoint, if there is one"):
        from hf_sqa.training.recipe import load_recipe

        loaded = load_recipe(recipe, changes or [])
        if dry_run:
            _dry_run(loaded)
            return
        from hf_sqa.evaluation.after_training import run_and_evaluate

        result, rows = run_and_evaluate(loaded, evaluates=is_first_process(), progress=bar, resume=resume, overwrite=overwrite)
    if is_first_process():
        print_training(result, "validation", "clips")
        if rows:
            print_agreement(rows)


def _dry_run(recipe: Any) -> None:
    from pathlib import Path

    from hf_sqa.options import dump_yaml
    from hf_sqa.training.dry_run import check_names, dry_run_recipe, look_at_encoder

    check_names(recipe)
    print(dump_yaml(recipe.to_dict()))
    print()
    if line := look_at_encoder(recipe):
        print(line)
    for source in [*recipe.data.train, *(recipe.data.validation or []), *recipe.evaluation]:
        place = source.root or source.table
        if source.hub is not None:
            print(f"{source.name}: on the Hub, not looked at")
        elif place is not None and not Path(place).exists():
            print(f"{source.name}: {place!r} is not there")
        elif place is not None:
            print(f"{source.name}: found in {place!r}")
        else:
            print(f"{source.name}: no root given; name it with `root`, such as data.train.0.root=<folder>")
    result = dry_run_recipe(recipe)
    losses = ", ".join(f"{entry['loss']:.3f}" for entry in result.history if "loss" in entry)
    print(f"Two steps with a tiny model on {result.num_train} generated clips: loss {losses}. The recipe works.")
