"""Names of files and rows, in a form that any file format can hold."""

import os

from hf_sqa.scoring.remote import is_remote


def printable(name: str) -> str:
    """Return a file name or URL with bytes that are not UTF-8 written as escapes."""
    try:
        return printable_text(name) if is_remote(name) else os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return printable_text(name)


def printable_text(text: str) -> str:
    """Do the same for a text of a manifest, which is UTF-8 whatever encoding file names have here."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON allows
        return text.encode("utf-8", "backslashreplace").decode()


def native(path: str) -> str:
    """Convert a path in a manifest, whose bytes are UTF-8 in any locale, to the encoding of file names here."""
    try:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return path


def shown(file: str) -> str:
    """Return the last part of a file's name, for messages."""
    return printable(path_of(file).rsplit("/", 1)[-1])


def path_of(name: str) -> str:
    """Return a name without the query part of its URL."""
    return name.split("?", 1)[0] if is_remote(name) else name
