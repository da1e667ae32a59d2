"""The command `hf-sqa`. One module per command: it parses, calls one function, prints. Commands do their heavy imports inside."""

from hf_sqa.cli.commands import app, main

__all__ = ["app", "main"]
