"""`hf-sqa card`: makes or updates the card of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from hf_sqa.cli.arguments import BaseModel, Languages, License, LicenseLink, LicenseName
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, quiet, stop


@faults_end_it()
def card(
    folder: Annotated[Path, typer.Argument(help="The checkpoint, or a LoRA adapter.")],
    results: Annotated[
        Path | None,
        typer.Option(help="JSON with the list `evaluation`.", show_default="evaluation.json or report.json of the folder"),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe that it was trained with.", show_default="recipe.yaml of the folder")
    ] = None,
    license: License = None,
    license_name: LicenseName = None,
    license_link: LicenseLink = None,
    languages: Languages = None,
    base_model: BaseModel = None,
    repo_id: Annotated[str | None, typer.Option(help="Hub id that it will have: `owner/name`.")] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print the card instead of writing it.")] = False,
) -> None:
    """Make the card (README.md) of a checkpoint from its configuration, recipe and results, or update it.

    Text outside the marked parts and existing metadata are kept. Exit code 1: the card lacks something that a push requires;
    standard error says what.

    Examples:

    - `hf-sqa card finetuned --license mit --language sw`
    """
    facts = {name: value for name, value in locals().items() if name not in ("folder", "print_")}
    quiet()
    import json

    from hf_sqa.hub.card import make_card, missing_from_card, write_card

    if results is not None:
        given = json.loads(results.read_text(encoding="utf-8"))
        facts["results"] = given.get("evaluation", []) if isinstance(given, dict) else given
    if print_:
        text = str(make_card(folder, **facts))
        typer.echo(text)
    else:
        path = write_card(folder, **facts)
        text = path.read_text(encoding="utf-8")
        typer.echo(f"Written: {path}")
    if lacking := missing_from_card(text):
        stop(f"The card is not complete; it lacks {'; '.join(lacking)}.", EXIT_FAILED)
