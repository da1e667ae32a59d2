"""The command `hf-sqa`. A module per command: it parses, calls one function, prints. Heavy imports wait inside the commands."""

from hf_sqa.cli.commands import app, main

__all__ = ["app", "main"]
