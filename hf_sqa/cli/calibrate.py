"""`hf-sqa calibrate`: how sure the scores of a model are, from rated clips of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import columns_and_group
from hf_sqa.cli.stopping import EXIT_INTERRUPTED, say, stop
from hf_sqa.progress import tracked


def calibrate(
    model: Annotated[str, typer.Argument(help="`default`, a short name, a local folder, a Hub id, or an adapter.")],
    table: Annotated[str, typer.Argument(help="Rated clips: a table (`.csv`, `.tsv`, `.jsonl`, `.xlsx`) or `hub:<repository>`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make, a copy of the model.")],
    group: Annotated[
        str | None,
        typer.Option(help="Column of what clips have in common, such as the talker; found if it has a usual name."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column for a name of the schema, such as `mos=opinion`; may be repeated.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the paths of the table are relative to.")] = None,
    scale: Annotated[tuple[float, float] | None, typer.Option(help="Ends of the scale of the labels, if not 1 5.")] = None,
    device: Annotated[str | None, typer.Option(help="`cpu` or `cuda`; by default the accelerator if there is one.")] = None,
) -> None:
    """Give a model intervals: how far its scores lie from the ratings of your clips, by level.

    Needs 20 rated clips that the model was not trained on, better 100 of several talkers. Writes a copy of the model with the
    calibration, and prints the coverage on clips that were left out. Then `hf-sqa score --interval 0.9 --model <folder>`.
    To move scores onto the scale of your test, see `hf-sqa finetune --calibrate`.

    Examples:

    - `hf-sqa calibrate default mine.csv --group talker --output calibrated`
    """
    import warnings

    from safetensors import SafetensorError

    from hf_sqa.cli.quiet import quiet

    quiet()
    from hf_sqa.data import load_corpus
    from hf_sqa.finetune.intervals import calibrate as calibrate_intervals

    try:
        columns, group_column = columns_and_group(column, group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rated = load_corpus(table, root, columns=columns, scale=scale)
        report = calibrate_intervals(
            model,
            rated,
            output,
            group=group_column,
            base_name="distill-mos-v7" if model == "default" else Path(model).name if Path(model).is_dir() else model,
            data_name=Path(table).name,
            device=device,
            announce=lambda line: typer.echo(line, err=True),
            track=tracked,
        )
        _write_card(output, report)
    except KeyboardInterrupt:
        stop("interrupted: nothing was written.", EXIT_INTERRUPTED)
    except (OSError, ImportError, TypeError, ValueError, SafetensorError) as error:
        stop(error)
    for clip in report["excluded"][:5]:
        say(f"Left out: {clip['file']} ({clip['code']})")
    if len(report["excluded"]) > 5:
        say(f"... and {len(report['excluded']) - 5} more")
    for name, calibration in report["score_intervals"].items():
        for measured in calibration["measured"]:
            typer.echo(
                f"{name}: asked for {measured['asked']:.2f}, {measured['coverage']:.3f} of {measured['num_clips']} clips left out "
                f"in turn lie within ±{measured['half_width']:.2f} (lowest of the parts: {measured['lowest']:.2f})."
            )
    typer.echo(f"Written: {output}. Try: hf-sqa score --model {output} --interval 0.9 ...")


def _write_card(folder: Path, report: dict[str, Any]) -> None:
    from hf_sqa.hub.card import write_card

    write_card(folder, base_model=report["base_model"], training_data=f"The weights are those of `{report['base_model']}`.")
