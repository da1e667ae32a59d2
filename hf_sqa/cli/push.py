"""`hf-sqa push`: publishes a checkpoint on the Hub after checking it."""

import sys
from typing import Annotated

import typer

from hf_sqa.cli.arguments import BaseModel, Languages, License, LicenseLink, LicenseName
from hf_sqa.cli.stopping import faults_end_it, quiet


@faults_end_it("Interrupted: the repository is unchanged or complete; push again to be sure.")
def push(
    model: Annotated[str, typer.Argument(help="The checkpoint, or a LoRA adapter: a folder, or another name of it.")],
    repo_id: Annotated[str, typer.Argument(help="Hub id to push to: `owner/name`.")],
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; made from `main` if it is new.", show_default="main")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    with_code: Annotated[
        bool | None,
        typer.Option(
            "--with-code/--without-code",
            help="Add the code, which works without hf_sqa, given `trust_remote_code=True`; done by default, except for adapters.",
        ),
    ] = None,
    with_handler: Annotated[
        bool, typer.Option("--with-handler", help="Add `handler.py`, which Inference Endpoints of the Hub run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and list the files; send nothing.")] = False,
    license: License = None,
    license_name: LicenseName = None,
    license_link: LicenseLink = None,
    languages: Languages = None,
    base_model: BaseModel = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a repository that holds another kind of model.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Title of the commit.")] = None,
) -> None:
    """Publish a checkpoint on the Hub: weights, configuration, feature extractor, card and a scored sample, in one commit.

    Before anything is sent, the checkpoint is loaded and scores the sample. Anything that must not be published stops the push:
    pickles, paths of this machine, tokens, a card without a licence, an adapter whose base others cannot find. If the push is
    interrupted, the repository is unchanged or complete; push again. Exit code 2: nothing was published.

    Examples:

    - `hf-sqa push finetuned alice/my-language-mos --license mit --dry-run`
    - `hf-sqa push finetuned alice/my-language-mos --license mit --private`
    """
    options = {**locals()}
    quiet()
    from hf_sqa.hub.publish import publish

    model, shows_steps = options.pop("model"), sys.stderr.isatty()
    done = publish(model, **options, announce=lambda line: typer.echo(f"... {line}", err=True) if shows_steps else None)
    for name, size in done.files.items():
        typer.echo(f"{size:>13,}  {name}")
    for name in done.removed:
        typer.echo(f"{'removed':>13}  {name}")
    for name, reason in done.left_out.items():
        typer.echo(f"{'stays here':>13}  {name} ({reason})")
    scores = ", ".join(f"{name} {score:.3f}" for name, score in done.sample_scores.items())
    typer.echo(f"The sample scores {scores}.")
    if dry_run:
        typer.echo(f"Nothing was sent; this would go to {done.repo_id}.")
    else:
        typer.echo(f"{'Published' if done.changed else 'Nothing changed'}: {done.url} at {done.commit}")
