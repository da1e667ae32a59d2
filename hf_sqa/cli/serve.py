"""`hf-sqa serve`: serves scores over HTTP."""

from typing import Annotated

import typer

from hf_sqa.cli.arguments import Channel, Device, Model, parse_channel
from hf_sqa.cli.stopping import faults_end_it, need_extra, quiet, stop


@faults_end_it()
def serve(
    model: Model = "default",
    host: Annotated[
        str,
        typer.Option(
            help="Address to serve on; `0.0.0.0` lets other machines in. Put a proxy that authenticates clients in front of it."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with the model.")] = 1,
    decoders: Annotated[
        int, typer.Option(min=1, help="Processes that decode, per worker. A process that a recording kills is replaced.")
    ] = 1,
    device: Device = None,
    dtype: Annotated[str, typer.Option(help="`float32`, `bfloat16` or `float16`.")] = "float32",
    channel: Channel = "mean",
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 100.0,
    max_seconds: Annotated[float, typer.Option(min=0.25, help="Longest recording.")] = 600.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds from the end of an upload to its answer.")] = 120.0,
    max_files: Annotated[int, typer.Option(min=1, help="Maximum number of recordings in a batch.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Recordings that may wait; further ones are refused with 503.")] = 256,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Read recordings from URLs that requests name; public addresses only.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="With --allow-urls: a host with a private address that may be read too; may be repeated."),
    ] = None,
) -> None:
    """Serve scores over HTTP: `/score`, `/score/batch`, `/timeline`, `/health`, `/metrics`, and their description at `/docs`.

    Serves until Ctrl-C. The answer for a recording that cannot be scored has the reason and a suitable status code. The service has
    no authentication: serve on this machine only, or behind a proxy that has. Exit code 2: it could not be started.

    Examples:

    - `hf-sqa serve`
    - `curl -F file=@call.wav http://127.0.0.1:8000/score`
    - `hf-sqa serve --host 0.0.0.0 --workers 4 --max-seconds 120`
    """
    need_extra("The service", "serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    if allow_host and not allow_urls:
        stop("--allow-host needs --allow-urls.")
    if workers == 1:
        quiet()  # loads torch, which a process that only supervises workers does not need
    from hf_sqa.scoring import Settings
    from hf_sqa.serve.app import run
    from hf_sqa.serve.service import Limits

    settings = Settings(model=model, dtype=dtype, device=device, channel=parse_channel(channel))
    max_bytes = round(max_megabytes * 1e6)
    limits = Limits(max_bytes, max_seconds, timeout, max_files, max_waiting, allow_urls, tuple(allow_host or ()))
    typer.echo(f"Loading the model, then serving on http://{host}:{port}, described at /docs (Ctrl-C ends it)", err=True)
    run(settings, limits, host=host, port=port, workers=workers, num_decoders=decoders)
