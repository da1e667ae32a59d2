"""`hf-sqa calibrate`: measures how certain the scores of a model are, from your own rated clips."""

from pathlib import Path
from typing import Annotated

import typer

from hf_sqa.cli.arguments import Column, Device, Group, Root, Scale, columns_and_group, name_of_original, rated_clips
from hf_sqa.cli.stopping import faults_end_it, quiet, say_first
from hf_sqa.progress import tracked


@faults_end_it("interrupted: nothing was written.")
def calibrate(
    model: Annotated[str, typer.Argument(help="`default`, a short name, a local folder, a Hub id, or an adapter.")],
    table: Annotated[str, typer.Argument(help="Rated clips: a table (`.csv`, `.tsv`, `.jsonl`, `.xlsx`) or `hub:<repository>`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make, a copy of the model.")],
    group: Group = None,
    column: Column = None,
    root: Root = None,
    scale: Scale = None,
    device: Device = None,
) -> None:
    """Calibrate intervals for a model: how far its scores lie from the ratings of your clips, by level.

    Needs at least 20 rated clips that the model was not trained on; 100 clips of several talkers are better. Writes a copy of the
    model with the calibration, and prints the coverage on held-out clips. Then use `hf-sqa score --interval 0.9 --model <folder>`.
    To move scores onto the scale of your test, see `hf-sqa finetune --calibrate`.

    Examples:

    - `hf-sqa calibrate default mine.csv --group talker --output calibrated`
    """
    quiet()
    from hf_sqa.finetune.intervals import calibrate as calibrate_intervals
    from hf_sqa.hub.card import write_card

    columns, group_column = columns_and_group(column, group)
    report = calibrate_intervals(
        model,
        rated_clips(table, root, columns=columns, scale=scale),
        output,
        group=group_column,
        base_name=name_of_original(model),
        data_name=Path(table).name,
        device=device,
        announce=lambda line: typer.echo(line, err=True),
        track=tracked,
    )
    write_card(output, base_model=report["base_model"], training_data=f"The weights are those of `{report['base_model']}`.")
    say_first([f"Left out: {clip['file']} ({clip['code']})" for clip in report["excluded"]])
    for name, calibration in report["score_intervals"].items():
        for measured in calibration["measured"]:
            typer.echo(
                f"{name}: asked for {measured['asked']:.2f}, {measured['coverage']:.3f} of {measured['num_clips']} clips left out "
                f"in turn lie within ±{measured['half_width']:.2f} (lowest of the parts: {measured['lowest']:.2f})."
            )
    typer.echo(f"Written: {output}. Try: hf-sqa score --model {output} --interval 0.9 ...")
