"""Files behind URLs: http(s) by the standard library, the others (`s3://`, `gs://`, `hf://`, `memory://`, ...) by fsspec.

A server that is busy (429, 5xx) or does not answer is asked again, a few times and ever more slowly.
"""

from __future__ import annotations

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 60
#: Waits between tries, in seconds.
RETRY_SECONDS = (0.5, 2.0, 8.0)
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_remote(name: str) -> bool:
    """Whether a name is a URL."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None or re.match(r"[a-z0-9]+::", name) is not None


def read_remote(url: str) -> bytes:
    """Content of a URL.

    Raises:
        OSError: If it cannot be had, after the last try.
        ImportError: If fsspec lacks the package for this kind of URL.
    """
    return _tried(lambda: _read_http(url) if url.startswith(("http://", "https://")) else _read_fsspec(url))


def open_remote(url: str) -> Any:
    """A URL as a binary file."""
    if url.startswith(("http://", "https://")):
        return (
            io.BytesIO(read_remote(url)) if not url.split("?")[0].endswith((".tar", ".tgz", ".gz")) else _tried(lambda: _open(url))
        )
    import fsspec

    return _tried(lambda: fsspec.open(url, "rb").open())


def list_remote(url: str) -> list[str]:
    """Files below a URL that ends in `/`, or that match a glob, sorted."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    found = system.find(path) if url.endswith("/") else [name for name in system.glob(path) if not system.isdir(name)]
    return sorted(system.unstrip_protocol(name) for name in found)


def _tried(attempt: Any) -> Any:
    for seconds in (*RETRY_SECONDS, None):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code not in BUSY or seconds is None:
                raise
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException):
            if seconds is None:
                raise
        time.sleep(seconds)
    raise AssertionError


def _open(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)


def _read_http(url: str) -> bytes:
    with _open(url) as response:
        return response.read()


def _read_fsspec(url: str) -> bytes:
    import fsspec

    with fsspec.open(url, "rb") as file:
        return file.read()
