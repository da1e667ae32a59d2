"""What the libraries would say while a command works, and should not."""

from __future__ import annotations

import gc


def quiet() -> None:
    """Silence the logs and progress bars of transformers and huggingface_hub."""
    was_enabled = gc.isenabled()
    gc.disable()  # modules stay to the end: to look for garbage among them takes a seventh of the start
    try:
        import huggingface_hub
        from transformers.utils import logging
    finally:
        if was_enabled:
            gc.enable()
    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
