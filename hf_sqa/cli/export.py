"""`hf-sqa export`: a model in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Write a model in a format that runs without torch.", no_args_is_help=True)


@app.callback()
def export() -> None:
    """Write a model in a format that runs without torch."""


@app.command("onnx")
def onnx(
    folder: Annotated[Path, typer.Argument(help="Folder to write `model.onnx` and its configuration into.")],
    model: Annotated[str, typer.Option(help="`default` (Distill-MOS v7), a local folder, or a Hub id.")] = "default",
) -> None:
    """Export to ONNX and check the graph in onnxruntime against torch on three sizes of input."""
    import huggingface_hub
    from transformers.utils import logging

    huggingface_hub.logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    import hf_sqa.pipelines
    from hf_sqa.hub.onnx_export import GRAPH_FILE, export_onnx

    try:
        scorer = hf_sqa.pipelines.pipeline(model, device="cpu")
        difference = export_onnx(scorer.model, folder)
    except (OSError, ValueError, ImportError) as error:
        typer.echo(f"hf-sqa: the model {model!r} cannot be exported: {error}", err=True)
        raise typer.Exit(2) from None
    size = (folder / GRAPH_FILE).stat().st_size / 1e6
    typer.echo(f"written   {folder / GRAPH_FILE}, {size:.1f} MB, in float32")
    typer.echo(f"verified  in onnxruntime: off torch by at most {difference:.1e} on three sizes of input")
