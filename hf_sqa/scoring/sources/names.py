"""Names of files and rows, as any file format can hold them."""

import os

from hf_sqa.scoring.remote import is_remote


def printable(name: str) -> str:
    """A file name or URL; bytes that are not UTF-8 are written as escapes."""
    try:
        return printable_text(name) if is_remote(name) else os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return printable_text(name)


def printable_text(text: str) -> str:
    """A text of a manifest, which is UTF-8 whatever the encoding of file names is here."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON can spell it
        return text.encode("utf-8", "backslashreplace").decode()


def native(path: str) -> str:
    """A path of a manifest as file names are encoded here: its bytes are UTF-8, whatever the locale says."""
    try:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return path


def shown(file: str) -> str:
    """The last part of a file's name, for messages."""
    return printable(path_of(file).rsplit("/", 1)[-1])


def path_of(name: str) -> str:
    """A name without the query of its URL."""
    return name.split("?", 1)[0] if is_remote(name) else name
