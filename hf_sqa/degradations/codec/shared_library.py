"""Find codecs of the operating system when they are first needed; an error names the package of a missing one."""

import ctypes
import ctypes.util
import functools
import os
import shutil


class CodecUnavailableError(RuntimeError):
    """A codec whose library or program is not installed; the message names the package."""


@functools.lru_cache(maxsize=32)
def load_library(name: str, version: int, codec: str, debian_package: str, brew_package: str) -> ctypes.CDLL:
    """Open a shared library: the file that the environment variable `HF_SQA_LIB<NAME>` names, or the installed one."""
    named = os.environ.get(f"HF_SQA_LIB{name.upper()}")
    usual = (named,) if named else (f"lib{name}.so.{version}", f"lib{name}.{version}.dylib")
    for file in usual:
        try:
            return ctypes.CDLL(file)
        except OSError:
            continue
    found = None if named else ctypes.util.find_library(name)
    if found:
        return ctypes.CDLL(found)
    raise CodecUnavailableError(
        f"The codec {codec!r} needs the shared library {named or f'lib{name}'}, which was not found; install it with "
        f"`apt-get install {debian_package}` (Debian, Ubuntu) or `brew install {brew_package}`."
    )


def find_ffmpeg(codec: str) -> str:
    """Return the path of the program ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise CodecUnavailableError(
            f"The codec {codec!r} needs the program ffmpeg, which was not found; install it with `apt-get install ffmpeg` (Debian, "
            "Ubuntu) or `brew install ffmpeg`."
        )
    return program
