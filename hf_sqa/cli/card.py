"""`hf-sqa card`: make or refresh the card of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.quiet import quiet
from hf_sqa.cli.stopping import EXIT_FAILED, stop


def card(
    folder: Annotated[Path, typer.Argument(help="The checkpoint, or a LoRA adapter.")],
    results: Annotated[
        Path | None,
        typer.Option(help="JSON with the list `evaluation`.", show_default="evaluation.json or report.json of the folder"),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="What it was trained by.", show_default="recipe.yaml of the folder")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights: `mit`, `cc-by-nc-sa-4.0`, `other`, ...")] = None,
    license_name: Annotated[str | None, typer.Option(help="What the licence `other` is called.")] = None,
    license_link: Annotated[str | None, typer.Option(help="Where it can be read.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language trained on, as a code; may be repeated.")] = None,
    base: Annotated[str | None, typer.Option(help="Hub id of the model it was fine-tuned from.")] = None,
    repo_id: Annotated[str | None, typer.Option(help="Where it will be: `owner/name`.")] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print the card instead of writing it.")] = False,
) -> None:
    """Make the card (README.md) of a checkpoint from its configuration, recipe and results, or update it.

    Text outside the marked parts and the metadata are kept. Exit code 1: the card lacks something that a push requires; standard
    error says what.

    Examples:

    - `hf-sqa card finetuned --license mit --language sw`
    """
    quiet()
    import json

    from hf_sqa.hub.card import make_card, missing_from_card, write_card

    try:
        given = None if results is None else json.loads(results.read_text(encoding="utf-8"))
        options: dict[str, Any] = {
            "results": given.get("evaluation", []) if isinstance(given, dict) else given,
            "recipe": recipe,
            "license": license,
            "license_name": license_name,
            "license_link": license_link,
            "languages": language,
            "base_model": base,
            "repo_id": repo_id,
        }
        if print_:
            text = str(make_card(folder, **options))
            typer.echo(text)
        else:
            path = write_card(folder, **options)
            text = path.read_text(encoding="utf-8")
            typer.echo(f"Written: {path}")
    except (OSError, TypeError, ValueError) as error:
        stop(error)
    if lacking := missing_from_card(text):
        stop(f"The card is not complete; it lacks {'; '.join(lacking)}.", EXIT_FAILED)
