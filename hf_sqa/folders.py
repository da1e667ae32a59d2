"""Finds recordings in folders, and the files that names in a table refer to; every search of the package uses this module.

Searches follow links to folders, but not in loops. Each real file is found once: under its own name if that is in the searched
folder, else under that of the first link to it.
"""

from __future__ import annotations

import glob
import itertools
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

#: Suffixes that are searched for in folders and tars. Some formats cannot be read: such a file becomes a row with the reason.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"}
    | {".voc", ".sph", ".nist", ".m4a", ".aac", ".mp4", ".wma", ".amr", ".awb", ".webm", ".spx"}
)
#: Suffixes that label files may leave out, in the order in which they are tried.
LEFT_OUT_SUFFIXES = (".wav", ".flac", ".WAV", ".mp3", ".ogg", ".opus")
#: First bytes of the files `._name` that macOS writes beside every file on a foreign disk.
APPLE_DOUBLE = b"\x00\x05\x16\x07"
#: Largest number of spellings that are tried for a name.
MAX_SPELLINGS = 64

#: Path of a file, its real path, and whether the path leads through a link.
Found = tuple[str, str, bool]


def find_recordings(
    folder: str | os.PathLike[str], suffixes: Collection[str] = AUDIO_SUFFIXES, unlisted: list[OSError] | None = None
) -> list[str]:
    """Return the recordings in a folder and below it, each real file once, sorted by the parts of their paths.

    Broken links are included, so that reading them reports the fault. Pipes, devices and the `._` files of macOS are not. A folder
    that cannot be listed is an `OSError`, which is raised, or appended to `unlisted`.
    """
    ends = tuple(suffixes)
    found = [file for file in _files(folder, unlisted) if file[0].lower().endswith(ends) and not _is_companion(file[0])]
    return sorted(_each_once(found), key=lambda path: Path(path).parts)


def expand_pattern(pattern: str) -> list[str]:
    """Return the files that match a glob, each real file once, sorted. `**` stands for any number of folders, also linked ones."""
    parts = Path(pattern).parts
    if "**" in parts:
        # Python's own `**` follows every loop of links until the name is too long for the system.
        start = parts.index("**")
        folders = glob.glob(os.path.join(*parts[:start], "")) if start else [""]  # noqa: PTH207  # Path.glob takes no absolute one
        files = [(path, Path(path.removeprefix(folder)).parts) for folder in folders for path, _, _ in _files(folder, None)]
        matches = [path for path, inside in files if _matches(inside, parts[start:])]
    else:
        matches = [path for path in glob.glob(pattern) if not os.path.isdir(path)]  # noqa: PTH207
    real_paths = ((path, os.path.realpath(path)) for path in matches if not _is_companion(path))
    return sorted(_each_once([(path, real, real != os.path.abspath(path)) for path, real in real_paths]))


def find_named(path: str, is_file: Callable[[str], bool] = os.path.isfile) -> str | None:
    """Find the file that a name in a table or manifest refers to, in the usual variants of spelling; `None` if none exists.

    It tries the path unchanged, with `\\` as `/`, with accented letters composed or decomposed (as macOS writes them), and each of
    these with one of `LEFT_OUT_SUFFIXES`.
    """
    if is_file(path):
        return path
    spellings = [path]
    for slashed in (path, os.path.normpath(path.replace("\\", "/"))):
        if not slashed.isascii() or slashed != path:
            forms = [
                dict.fromkeys((part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))))
                for part in slashed.split("/")
            ]
            spellings += ["/".join(spelled) for spelled in itertools.islice(itertools.product(*forms), MAX_SPELLINGS)]
    completed = (spelled + suffix for suffix in LEFT_OUT_SUFFIXES for spelled in spellings)
    return next((spelled for spelled in itertools.chain(spellings[1:], completed) if is_file(spelled)), None)


class AudioFolders:
    """Finds many named files and lists each folder only once: a hundred thousand calls of `stat` would take far longer."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def find(self, path: str) -> str | None:
        """Find the file that a name refers to, as [`find_named`] does."""
        return find_named(path, self._is_there)

    def _is_there(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def names(self, folder: str) -> frozenset[str]:
        """Return the names in a folder; empty if it does not exist."""
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
        return self._names[folder]


def _files(folder: str | os.PathLike[str], unlisted: list[OSError] | None) -> Iterator[Found]:
    """Yield every regular file below a folder, every link to one, and every broken link; links to folders are followed last."""
    root = os.path.realpath(folder or os.curdir)
    entered = {str(parent) for parent in Path(root).parents}
    path = os.fspath(folder)
    waiting: deque[Found] = deque([("" if path == os.curdir else path, root, False)])
    links: deque[str] = deque()
    while waiting or links:
        if not waiting:
            path = links.popleft()
            waiting.append((path, os.path.realpath(path), True))
        path, real, linked = waiting.popleft()
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(path or os.curdir) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if unlisted is None:
                raise
            unlisted.append(error)
            continue
        for entry in entries:
            own = os.path.join(path, entry.name)
            if not entry.is_symlink():
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((own, os.path.join(real, entry.name), linked))
                elif entry.is_file(follow_symlinks=False):
                    yield own, os.path.join(real, entry.name), linked
            elif os.path.isdir(own):
                links.append(own)
            elif os.path.isfile(own) or not os.path.exists(own):
                yield own, os.path.realpath(own), True


def _each_once(found: Sequence[Found]) -> list[str]:
    """Return one path for each real file: the one without links, else the first."""
    chosen: dict[str, tuple[bool, str]] = {}
    for path, real, linked in found:
        chosen[real] = min((linked, path), chosen.get(real, (linked, path)))
    return [path for _, path in chosen.values()]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob; hidden names match only patterns that begin with a dot."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] != "**":
        hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
        return not hidden and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
    if len(pattern) == 1:
        return not any(part.startswith(".") for part in parts)
    return _matches(parts, pattern[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))


def _is_companion(path: str) -> bool:
    """Whether macOS wrote this file beside a recording; it has the same suffix as the recording."""
    if not os.path.basename(path).startswith("._"):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) == APPLE_DOUBLE
    except OSError:
        return False
