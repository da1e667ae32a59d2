"""What the libraries would say while a command works, and should not."""

from __future__ import annotations


def quiet() -> None:
    """Silence the logs and progress bars of transformers and huggingface_hub."""
    import huggingface_hub
    from transformers.utils import logging

    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
