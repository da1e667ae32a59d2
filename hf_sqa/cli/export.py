"""`hf-sqa export`: writes a model in another format."""

from pathlib import Path
from typing import Annotated

import typer

from hf_sqa.cli.arguments import Model
from hf_sqa.cli.stopping import faults_end_it, quiet

app = typer.Typer(help="Write a model in a format that runs without torch.", no_args_is_help=True)


@app.callback()
def export() -> None:
    """Write a model in a format that runs without torch."""


@app.command("onnx")
@faults_end_it()
def onnx(
    folder: Annotated[Path, typer.Argument(help="Folder to write `model.onnx` and its configuration into.")],
    model: Model = "default",
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in 8 bits, for DistilledSQA: a third of the size.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Add a page that scores in a browser, for DistilledSQA.")] = False,
) -> None:
    """Export to ONNX, and check the graph in onnxruntime against torch on inputs of three sizes.

    `hf-sqa score --model <folder>` scores with the graph of a DistilledSQA.
    """
    quiet()
    from hf_sqa.checkpoints import load_checkpoint
    from hf_sqa.export.onnx import GRAPH_FILE, export_onnx
    from hf_sqa.export.page import write_page

    loaded = load_checkpoint(model, merge=True).model
    if page:
        write_page(loaded, folder)
    difference = export_onnx(loaded, folder, int8=int8)
    size = (folder / GRAPH_FILE).stat().st_size / 1e6
    typer.echo(f"written   {folder / GRAPH_FILE}, {size:.1f} MB, in {'int8' if int8 else 'float32'}")
    typer.echo(f"verified  in onnxruntime: off torch by at most {difference:.1e} on three sizes of input")
    if page:
        typer.echo(f"page      {folder / 'index.html'}; it needs onnxruntime-web beside it: docs/onnx.md")
