"""`hf-sqa convert`: converts an authors' checkpoint into a folder that `from_pretrained` loads."""

from pathlib import Path
from typing import Annotated

import typer

from hf_sqa.cli.stopping import faults_end_it, quiet, stop


@faults_end_it()
def convert(
    family: Annotated[str | None, typer.Argument(help="Family of the checkpoint, for example `nisqa`.")] = None,
    checkpoint: Annotated[str | None, typer.Argument(help="The authors' file, or a name; `published` for the default one.")] = None,
    folder: Annotated[Path | None, typer.Argument(help="New folder to write.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder or Hub id of the speech encoder, for checkpoints that hold only a head.")
    ] = None,
    encoder_config: Annotated[
        Path | None, typer.Option(help="JSON file that describes the encoder, where the checkpoint's tensors do not tell.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List what can be read, and exit.")] = False,
) -> None:
    """Convert an authors' checkpoint into a folder that `from_pretrained`, the pipeline and `hf-sqa score --model` load.

    Describes the model, checks it by scoring a sample before and after saving, and names any tensor that does not match, which
    stops the conversion. Pickles are read without running code in them.

    Examples:

    - `hf-sqa convert --list`
    - `hf-sqa convert nisqa nisqa.tar nisqa-v2`
    - `hf-sqa convert xlsr_sqa sqa-v2/mfcc_subset xls-r-sqa-mfcc`
    """
    quiet()
    from hf_sqa.hub.conversion import convert_checkpoint, readable_checkpoints

    if list_:
        for name, reads in readable_checkpoints().items():
            typer.echo(name)
            for line in reads:
                typer.echo(f"  {line}")
        return
    if family is None or checkpoint is None or folder is None:
        stop("expected `hf-sqa convert <family> <checkpoint> <folder>`; `hf-sqa convert --list` says what can be read.")
    found = convert_checkpoint(
        family, None if checkpoint == "published" else checkpoint, folder, encoder=encoder, encoder_config=encoder_config
    )
    scores = ", ".join(f"{name} {score:.3f}" for name, score in found.sample_scores.items())
    typer.echo(f"found     {found.checkpoint_name or checkpoint}: {found.model} with {found.num_weights:,} weights")
    typer.echo(f"verified  the built-in sample scores {scores}, before and after saving")
    typer.echo(f"written   {found.folder}; use it by `hf-sqa score --model {found.folder} ...`")
