"""Files behind URLs: http(s) by the standard library, the others (`s3://`, `gs://`, `hf://`, `memory://`, ...) by fsspec.

A request is repeated a few times, with longer and longer waits, if the server is busy (429, 5xx) or does not answer. It is not
repeated if the server refuses (no such file, no permission).
"""

import contextlib
import io
import posixpath
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

TIMEOUT_SECONDS = 60
#: Waits between tries, in seconds.
RETRY_SECONDS = (0.5, 2.0, 8.0)
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_remote(name: str) -> bool:
    """Whether a name is a URL."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None or re.match(r"[a-z0-9]+::", name) is not None


def read_remote(url: str) -> bytes:
    """Return the content of a URL."""
    return _tried(lambda: _read(url))


def open_remote(url: str) -> Any:
    """Open a URL as a binary file."""
    if url.startswith(("http://", "https://")):
        is_streamed = url.split("?")[0].endswith((".tar", ".tgz", ".gz"))
        return _tried(lambda: urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)) if is_streamed else io.BytesIO(read_remote(url))
    import fsspec

    return _tried(lambda: fsspec.open(url, "rb").open())


def list_remote(url: str) -> list[str]:
    """Return the files below a URL that ends in `/`, or those that match a glob, sorted."""
    import fsspec

    with naming_failures(url):
        system, path = fsspec.core.url_to_fs(url)
        found = system.find(path) if url.endswith("/") else [name for name in system.glob(path) if not system.isdir(name)]
    # Some tools mark a folder of a bucket by an empty object whose name ends in a slash.
    return sorted(system.unstrip_protocol(name) for name in found if not name.endswith("/"))


@contextlib.contextmanager
def naming_failures(url: str) -> Iterator[None]:
    """Context that turns any failure of a URL into an `OSError` that names it; each file system of fsspec has its own errors."""
    try:
        yield
    except (ValueError, ImportError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected recordings or a list of them, but there is no file {url!r}.") from error
    except Exception as error:
        if _is_refused(error):
            raise PermissionError(f"{url!r} may not be read ({error}); check the credentials.") from error
        raise OSError(f"{url!r} cannot be read ({error}); run the same command again later.") from error


def _tried(attempt: Any) -> Any:
    for seconds in (*RETRY_SECONDS, None):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code not in BUSY or seconds is None:
                raise
        except (FileNotFoundError, ValueError, ImportError, MemoryError):
            raise
        except Exception as error:  # those of botocore are no OSError
            if _is_refused(error):
                raise PermissionError(str(error)) from error
            if seconds is None:
                raise
        time.sleep(seconds)
    raise AssertionError


def join_remote(folder: str, path: str) -> str:
    """Join a URL and a relative path; `..` is resolved here, because buckets have no folders."""
    joined = posixpath.join(folder, path)
    if not {".", ".."} & set(path.split("/")):
        return joined
    scheme, mark, rest = joined.rpartition("://")
    return scheme + mark + posixpath.normpath(rest)


def _is_refused(error: Exception) -> bool:
    """Whether credentials are wrong or missing, so that a retry would fail too."""
    return isinstance(error, PermissionError) or "Credential" in type(error).__name__


def _read(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            return response.read()
    import fsspec

    options: dict[str, Any] = {}
    impatient = url.startswith(("s3://", "s3a://"))
    if impatient:
        # s3fs tries five times, and botocore five times each: with our own retries a hundred, which takes minutes for a recording.
        chosen = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options = {"config_kwargs": {"retries": {"total_max_attempts": 1}, **chosen}}
    system, path = fsspec.core.url_to_fs(url, **options)
    if impatient:
        system.retries = 1  # only of this instance: the options make it another than that for lists and archives
    with system.open(path, "rb") as file:
        return file.read()
