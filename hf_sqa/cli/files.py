"""From what is typed to recordings: files, folders, globs, `@lists`, standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_sqa.audio import AUDIO_SUFFIXES, AudioError


def find_recordings(arguments: Iterable[str], standard_input: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield `(name, audio)` for every recording meant, in order, each name once.

    Args:
        arguments (`Iterable[str]`): Files, URLs, folders (searched in depth), globs, `@file` for a list with a name a line (`#`
            begins a comment), `-` for audio on standard input, `@-` for a list on standard input.
        standard_input: Binary stream to read `-` from; the process's own if not given.

    `audio` is a path, a URL, bytes, or an `AudioError` for an argument that holds no recording.
    """
    stream = standard_input if standard_input is not None else sys.stdin.buffer
    seen: set[str] = set()
    for name, audio in _expand(arguments, stream):
        if name not in seen:
            seen.add(name)
            yield name, audio


def _expand(arguments: Iterable[str], stream: Any, in_list: bool = False) -> Iterator[tuple[str, Any]]:
    for argument in arguments:
        if argument == "-":
            yield "-", stream.read()
        elif argument.startswith("@") and not in_list and not Path(argument).exists():
            yield from _expand(_listed(argument[1:], stream), stream, in_list=True)
        elif argument.startswith(("http://", "https://")):
            yield argument, argument
        elif Path(argument).is_dir():
            yield from _in_folder(Path(argument))
        elif not Path(argument).exists() and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
            if not matches:
                message = f"no file matches this pattern (looked in {str(Path.cwd())!r}); check it"
                yield argument, AudioError(argument, "missing", message)
            files = [match for match in matches if not Path(match).is_dir()]
            if matches and not files:
                message = "this pattern matches folders only; name the folders themselves to search them"
                yield argument, AudioError(argument, "no_audio", message)
            yield from ((match, match) for match in files)
        else:
            yield argument, argument


def _in_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not found:
        message = "no audio file in this folder or below it; expected names ending in .wav, .flac, .ogg, .opus, .mp3 or the like"
        yield str(folder), AudioError(str(folder), "no_audio", message)
    for path in found:
        yield str(path), str(path)


def _listed(name: str, stream: Any) -> list[str]:
    if name == "-":
        content = stream.read().decode("utf-8-sig")
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
