"""The option `--list` of `train`, `distill` and `study`: shows the files in the package that can be given by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hf_sqa.shipped import Kind


def list_option(kind: Kind, command: str) -> Any:
    """Make an option `--list` that prints the files of a kind that a command takes, and ends the command."""

    def print_list(asked: bool) -> None:
        if asked:
            _print(kind, command)
            raise typer.Exit

    return typer.Option("--list", callback=print_list, is_eager=True, help="List those that come with hf-sqa, and exit.")


def _print(kind: Kind, command: str) -> None:
    from hf_sqa.cli.tables import make_console, show_table
    from hf_sqa.shipped import about, shipped_files

    files = shipped_files(kind)
    are_distillations = {name: "\nstudent:" in path.read_text(encoding="utf-8") for name, path in files.items()}
    wanted = [name for name in files if kind != "recipes" or are_distillations[name] == (command == "distill")]
    console = make_console()
    show_table(console, ["name", "about"], [[name, about(files[name])] for name in wanted], left=("name", "about"))
    folder = next(iter(files.values())).parent
    console.print(f"\nThe files, to copy and change: {folder}", markup=False, soft_wrap=True)
    if command == "train":
        configurations = shipped_files("accelerate")
        example = configurations["multi_gpu"]
        console.print(
            f"Configurations of accelerate beside them: {', '.join(configurations)}. For example\n"
            f"accelerate launch --config_file {example} -m hf_sqa train <recipe>",
            markup=False,
            soft_wrap=True,
        )
