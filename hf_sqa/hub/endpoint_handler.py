"""`handler.py` of a repository, for Inference Endpoints: recordings in, rows of scores without NaN out.

It scores with hf_sqa if that is installed, else with the code beside the weights. This file is copied unchanged.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

#: Options of the pipeline that a request may give in `parameters`.
OPTIONS = frozenset({"channel", "hop_seconds", "mode", "return_segments", "return_timeline"})


class EndpointHandler:
    """Loads the repository once and scores request by request.

    Args:
        path (`str`): Folder of the repository.
    """

    def __init__(self, path: str = ""):
        try:
            from hf_sqa.pipelines import pipeline
        except ImportError:
            from transformers import pipeline as stock

            self.scorer: Any = stock("audio-quality", model=path, trust_remote_code=True)  # type: ignore[call-overload]
        else:
            self.scorer = pipeline(path)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Score one recording or several.

        Args:
            data (`dict`): `inputs`: the bytes of a recording, plain or in base64, or a list of them; and `parameters`, *optional*:
                pipeline options out of `OPTIONS`.

        Returns:
            `dict`, or a list of them: Rows as the pipeline gives them with `on_error="row"` and `return_details=True`.

        Raises:
            ValueError: If there are no inputs, or a parameter is unknown.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not inputs:
            raise ValueError("Expected `inputs`, the bytes of a recording or these in base64, or a list of such; got none.")
        if unknown := sorted(set(parameters) - OPTIONS):
            raise ValueError(f"Expected `parameters` among {', '.join(sorted(OPTIONS))}, got {', '.join(unknown)}.")
        recordings = inputs if isinstance(inputs, list) else [inputs]
        rows = self.scorer([_bytes(recording) for recording in recordings], on_error="row", return_details=True, **parameters)
        return rows if isinstance(inputs, list) else rows[0]


def _bytes(recording: Any) -> bytes:
    """Return the bytes of a recording. Paths and addresses are refused: a request must not read files of the service."""
    if isinstance(recording, str):
        try:
            return base64.b64decode(recording, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("Expected a recording as bytes or in base64, got another text; send the recording itself.") from None
    if not isinstance(recording, bytes):
        raise ValueError(f"Expected a recording as bytes or in base64, got {type(recording).__name__}.")
    return recording
