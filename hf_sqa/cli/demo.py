"""`hf-sqa demo`: a web page that scores recordings, served on this machine or written into a folder as a Space."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import Device
from hf_sqa.cli.stopping import EXIT_INTERRUPTED, faults_end_it, need_extra, quiet, say, stop


@faults_end_it()
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model visitors can choose; may be repeated: `default` (Distill-MOS v7), a local folder, a Hub id."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to serve on; the first free one from 7860 if not given.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on. `0.0.0.0` lets other machines in, such as a phone on the same network.")
    ] = "127.0.0.1",
    device: Device = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser, from a terminal.")] = True,
    share: Annotated[
        bool, typer.Option("--share/--no-share", help="Also serve through a public link of gradio.live, for anyone with the link.")
    ] = False,
    mcp: Annotated[
        bool,
        typer.Option("--mcp", help="Also offer the page's functions as tools to language models (MCP); needs the extra `mcp`."),
    ] = False,
    write_space: Annotated[
        Path | None,
        typer.Option(help="Serve nothing: write page, package and checkpoints into this new folder, ready to push as a Space."),
    ] = None,
) -> None:
    """Open a web page to score, compare and batch recordings: drop files, or record.

    The page is served on this machine only, until Ctrl-C (exit code 130). Exit code 2: it could not be opened.

    Examples:

    - `hf-sqa demo`
    - `hf-sqa demo --model default --model nisqa-v2`
    - `hf-sqa demo --write-space my-space`
    """
    models = model or []
    if write_space is not None:
        from hf_sqa.demo.folder import write_space as write_folder

        quiet()
        write_folder(write_space, models)
        megabytes = sum(path.stat().st_size for path in write_space.rglob("*") if path.is_file()) / 1e6
        typer.echo(f"written  {write_space}, {megabytes:.0f} MB")
        typer.echo(f"try      python {write_space / 'app.py'}")
        typer.echo(f"publish  hf upload <you>/<name> {write_space} --repo-type space")
        return
    need_extra("The page", "demo", "gradio")
    if mcp:
        need_extra("A page with tools", "mcp", "mcp")
    try:
        _serve(
            _built(models, device), mcp, server_name=host, server_port=port, inbrowser=browser and sys.stdout.isatty(), share=share
        )
    except KeyboardInterrupt:
        typer.echo("Closed.", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)  # a thread that is still scoring would delay the exit, then abort in torch


def _built(models: list[str], device: str | None) -> Any:
    """Build the page with all models loaded, so that a wrong name fails now and not for the first visitor."""
    quiet()
    from hf_sqa.demo.scorers import Scorers

    typer.echo("Loading the model ...", err=True)
    scorers = Scorers(models, device=device)
    for name in scorers.names:
        scorers.load(name)
    from hf_sqa.demo.app import build

    return build(scorers)


def _serve(page: Any, mcp: bool, **options: Any) -> None:
    """Serve a page until it is closed; `**options` are those of `gradio.Blocks.launch`."""
    from gradio.tunneling import CURRENT_TUNNELS

    from hf_sqa.demo.app import launch

    try:
        launch(page, mcp_server=mcp, quiet=True, prevent_thread_lock=True, **options)
    except (OSError, ValueError) as error:
        where = f"{options['server_name']}, port {options['server_port'] or '7860 and up'}"
        stop(f"The page cannot be served on {where}: {' '.join(str(error).split())}")
    try:
        typer.echo(f"Open {page.local_url} (Ctrl-C ends it)")
        if mcp:
            typer.echo(f"Tools: {page.local_url}gradio_api/mcp/")
        if options["share"] and not page.share_url:
            say("there is no public link, see above; the page is served on this machine alone.")
        while True:
            page.server.thread.join(1.0)
            if not page.server.thread.is_alive():
                stop("The server ended.")
    finally:
        page.close(verbose=False)
        for tunnel in CURRENT_TUNNELS:
            tunnel.kill()
