"""Finds the recordings that arguments name: files, folders, globs, `@lists`, standard input."""

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_sqa import folders
from hf_sqa.audio import AudioError


def find_recordings(arguments: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield `(name, audio)` for every recording that the arguments name, in order, each name once.

    They are files, URLs, folders (searched in depth), globs, `@file` for a list with one name per line (`#` begins a comment), `-`
    for audio on standard input, `@-` for a list there. `audio` is a path, a URL, bytes, or an `AudioError` of an argument.
    """
    seen: set[str] = set()
    for name, audio in _expand(arguments):
        if name not in seen:
            seen.add(name)
            yield name, audio


def _expand(arguments: Iterable[str], in_list: bool = False) -> Iterator[tuple[str, Any]]:
    for argument in arguments:
        if argument == "-":
            yield "-", sys.stdin.buffer.read()
        elif argument.startswith("@") and not in_list and not Path(argument).exists():
            yield from _expand(_listed(argument[1:]), in_list=True)
        elif argument.startswith(("http://", "https://")):
            yield argument, argument
        elif Path(argument).is_dir():
            yield from _in_folder(argument)
        elif not Path(argument).exists() and glob.has_magic(argument):
            yield from _matching(argument)
        else:
            yield argument, argument


def _matching(pattern: str) -> Iterator[tuple[str, Any]]:
    files = folders.expand_pattern(pattern)
    if files:
        yield from ((file, file) for file in files)
    elif next(glob.iglob(pattern), None) is not None:  # noqa: PTH207  # Path.glob takes no absolute pattern
        message = "this pattern matches folders only; name the folders themselves to search them"
        yield pattern, AudioError(pattern, "no_audio", message)
    else:
        message = f"no file matches this pattern (looked in {str(Path.cwd())!r}); check it"
        yield pattern, AudioError(pattern, "missing", message)


def _in_folder(folder: str) -> Iterator[tuple[str, Any]]:
    unlisted: list[OSError] = []
    found = folders.find_recordings(folder, unlisted=unlisted)
    for error in unlisted:
        name = str(error.filename)
        yield name, AudioError(name, "unreachable", f"the folder cannot be searched ({error.strerror}); check its permissions")
    if not found and not unlisted:
        message = "no audio file in this folder or below it; expected names ending in .wav, .flac, .ogg, .opus, .mp3 or the like"
        yield folder, AudioError(folder, "no_audio", message)
    yield from ((path, path) for path in found)


def _listed(name: str) -> list[str]:
    if name == "-":
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    else:
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"Expected a text file with a recording a line after '@', got {name!r}, which does not exist.")
        try:
            content = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"Expected {name!r} to be a text file with a recording a line, got other bytes ({error}).") from None
    names = [line.strip() for line in content.splitlines() if line.strip()]
    return [name for name in names if not name.startswith("#") or Path(name).exists()]
