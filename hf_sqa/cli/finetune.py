"""`hf-sqa finetune`: fine-tunes a model on your own rated clips, and says whether it is better."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import (
    Column,
    Device,
    Group,
    Model,
    Root,
    Scale,
    columns_and_group,
    name_of_original,
    rated_clips,
    settings_of,
)
from hf_sqa.cli.stopping import faults_end_it, need_extra, quiet
from hf_sqa.cli.tables import make_console, show_table
from hf_sqa.progress import tracked


@faults_end_it("interrupted: what is done is kept; the same command with --resume goes on from there.", RuntimeError)
def finetune(
    train: Annotated[str, typer.Option(help="Rated clips: a table (`.csv`, `.tsv`, `.jsonl`, `.xlsx`) or `hub:<repository>`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    model: Model = "default",
    test: Annotated[
        str | None, typer.Option(help="Held-out clips, a table like `--train`; if not given, they are taken from `--train`.")
    ] = None,
    group: Group = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Do not train: fit a mapping of the scores, of `first` or `third` order (from 20 clips on).")
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train a low-rank adapter instead of the weights.")] = False,
    epochs: Annotated[
        float | None, typer.Option(help="Maximum number of passes over the clips; training may stop earlier.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate; the default of the family if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per step.")] = 8,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Modules that are not trained, by name or pattern; `none` trains all; the default of the family if not given."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=0, help="Folds of the evaluation; 0 holds a fifth out. By default chosen by the number of clips."),
    ] = None,
    scale: Scale = None,
    column: Column = None,
    root: Root = None,
    limit_seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Cut longer clips at random in training; they are scored whole.")
    ] = None,
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Leave out recordings that are missing.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of parts, order, cuts and draws.")] = 0,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
) -> None:
    """Fine-tune a model on rated clips, and say whether it is better than before.

    Splits the clips without leaks, trains, and compares before and after on held-out clips, with 95 % intervals and a paired test.
    Writes the checkpoint, `report.json`, `predictions.csv` and a card into the folder. The exit code is 0 even if the report
    recommends keeping the original, and 2 if nothing could be done. Ctrl-C loses nothing: `--resume` continues the run.

    Examples:

    - `hf-sqa finetune --train mine.csv --group talker --output finetuned`
    - `hf-sqa finetune --train mine.csv --calibrate first --output calibrated`
    - `hf-sqa finetune --model org/name --train mine.csv --test others.csv --lora --output adapted`
    """
    need_extra("`hf-sqa finetune`", "train", "accelerate", "datasets")
    announce = functools.partial(typer.echo, err=True)
    from hf_sqa.finetune.settings import FinetuneOptions

    columns, group_column = columns_and_group(column, group)
    frozen = None if freeze is None else () if freeze == ["none"] else tuple(freeze)
    options = settings_of(FinetuneOptions, {**locals(), "group": group_column, "freeze": frozen})
    quiet()
    from hf_sqa.finetune.run import finetune as run

    loading = {"columns": columns, "scale": scale, "on_missing": "drop" if drop_missing else "raise"}
    rated, held_out = (None if table is None else rated_clips(table, root, **loading) for table in (train, test))
    for loaded in (rated, held_out):
        if loaded is not None and drop_missing:
            announce(loaded.info.description)
    report = run(
        model,
        rated,
        output,
        options=options,
        test=held_out,
        base_name=name_of_original(model),
        data_name=Path(test or train).name,
        resume=resume,
        announce=announce,
        track=tracked,
    )
    _write_card(output, report, Path(train).name)
    _print(report, output)


def _write_card(folder: Path, report: dict[str, Any], table: str) -> None:
    """Write the card: the numbers of the report, what is known about the data, and otherwise what the original's card says."""
    from hf_sqa.hub.card import write_card

    data = report["data"]
    sentences = [
        f"{'Calibrated' if report['score_mapping'] else 'Fine-tuned'} from {report['base_model']} on {data['num_clips']} rated "
        f"clips ({table})"
        + (f", {data['num_groups']} groups by {data['group']}" if data["group"] else "")
        + (f", languages {', '.join(data['languages'])}" if data["languages"] else ", language not stated")
        + ".",
        f"**{report['verdict']}**",
        report["evaluation_plan"]["sentence"],
        *report["remarks"],
    ]
    write_card(
        folder,
        results=report["evaluation"],
        training_data="\n\n".join(sentences),
        languages=data["languages"] or None,
        base_model=report["base_model"],
        training_cost={"seconds": report["seconds"]},
    )


def _print(report: dict[str, Any], folder: Path) -> None:
    """Print the scores before and after, and the recommendation."""
    console = make_console()
    titles = {"before": "before", "calibrated": "before, calibrated", "after": "after"}
    for score, compared in report["scores"].items():
        rows = [[titles[model], *map(_interval, metrics.values())] for model, metrics in compared["agreement"].items()]
        show_table(console, [f"{score}, {compared['num_clips']} held-out clips", "LCC", "SRCC", "RMSE"], rows)
    console.print()
    console.print(report["verdict"], soft_wrap=True)
    console.print(f"Written: {folder} ({report['seconds']:.0f} s); {folder}/README.md is its card.", soft_wrap=True)


def _interval(interval: dict[str, float | None]) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None:
        return "undefined"
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
