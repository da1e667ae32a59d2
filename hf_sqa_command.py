"""The console script `hf-sqa`: its help comes before torch, and the commands import what they need."""

from hf_sqa.cli import main

__all__ = ["main"]
