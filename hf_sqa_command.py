"""The console script `hf-sqa`.

`import hf_sqa` registers the families with transformers, which takes seconds for torch. A process that begins here does not: its
help comes at once, and the commands import what they need. `hf_sqa/__init__.py` looks for this module.
"""


def main() -> None:
    """Run the command."""
    from hf_sqa.cli import main

    main()
