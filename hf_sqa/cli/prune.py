"""`hf-sqa prune`: makes a smaller dense model from a large one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import Device, Model, settings_of, words_of
from hf_sqa.cli.stopping import faults_end_it, quiet


@faults_end_it("interrupted; whole steps are kept, and the same command goes on after them.")
def prune(
    calibration: Annotated[
        str, typer.Option(help="Speech to measure and repair on: a folder, a table, or the windows of `hf-sqa distill`.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the pruned model and the report.")],
    target: Annotated[float, typer.Option(help="Share of the weights to keep.")],
    model: Model = "default",
    min_agreement: Annotated[
        float | None, typer.Option(help="Correlation with the unpruned model below which pruning stops.")
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="How the importance of a unit is measured: `gradient` (times activation) or `energy`.")
    ] = "gradient",
    kinds: Annotated[str, typer.Option(help="What can be removed, separated by commas.")] = "channels,units,heads,layers",
    num_steps: Annotated[int, typer.Option(help="Number of pruning steps to the target.")] = 4,
    repair_steps: Annotated[int, typer.Option(help="Optimiser steps of repair after each pruning step.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Windows per optimiser step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of the repair.")] = 5e-5,
    num_windows: Annotated[int, typer.Option(help="Calibration windows; a quarter of them measures agreement only.")] = 400,
    label_weight: Annotated[
        float,
        typer.Option(help="Weight of the listeners' scores in repair, where the speech is rated, beside the unpruned model's."),
    ] = 0.0,
    device: Device = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Repair in bfloat16: twice as fast on processors that have it.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Prune a model step by step, repair it after each step, and report what it lost.

    Removes convolution channels, hidden units, attention heads and layers, starting with those that change the scores of the
    calibration speech least. The result is a dense model that loads like any other. The same command resumes a stopped run after
    the last step in the folder.

    Example: `hf-sqa prune --model default --target 0.3 --calibration calls/ --output pruned`
    """
    quiet()
    import torch

    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.pruning import PruningOptions, load_calibration, prune as run
    from hf_sqa.pruning.prune import save_model

    options = settings_of(PruningOptions, {**locals(), "kinds": tuple(words_of(kinds))})
    loaded = load_checkpoint(model, merge=True).model
    speech = load_calibration(calibration, loaded, num_windows, seed)
    for name, reason in speech.excluded.items():
        typer.echo(f"Not used: {name}: {reason}", err=True)
    typer.echo(
        f"{loaded.num_parameters():,} weights; {len(speech.repair)} windows to measure and repair on, "
        f"{len(speech.held_out)} for agreement"
    )
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    result = run(loaded, speech, options, folder=output, device=device, on_step=_print_step)
    save_model(result.model, output)
    if result.stopped:
        typer.echo(result.stopped)
    if not result.steps:
        typer.echo("Nothing was removed.")
    typer.echo(f"The model is in {output}: hf-sqa score --model {output} ...")


def _print_step(number: int, step: Any) -> None:
    removed = ", ".join(f"{count} {kind}" for kind, count in step.removed.items())
    before, after = step.before_repair, step.after_repair
    typer.echo(
        f"step {number + 1}: {step.num_parameters:,} weights ({step.share:.1%}); without {removed}; agreement before repair "
        f"LCC {before['lcc']:.4f}, RMSE {before['rmse']:.3f}, after LCC {after['lcc']:.4f}, RMSE {after['rmse']:.3f}; "
        f"{step.seconds:.0f} s"
    )
