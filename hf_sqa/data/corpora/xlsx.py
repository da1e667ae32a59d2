"""Cells of an Excel table as text, with the standard library: openpyxl would be a package for the sake of one file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_NAMESPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_xlsx(path: Path, sheet_name: str | None = None) -> Iterator[tuple[list[str], int]]:
    """Rows of a sheet that are not empty, each with its number from 1. Formulas give the value that was last saved.

    The sheet is the one called `sheet_name`, or the first if there is none of that name.

    Raises:
        ValueError: If the file is not an Excel table of this kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            shared = []
            if "xl/sharedStrings.xml" in names:
                strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
                shared = [_text(one) for one in strings.iter(f"{_NAMESPACE}si")]
            sheet = ElementTree.fromstring(archive.read(_sheet_file(archive, sheet_name)))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError) as error:
        raise ValueError(f"Expected an Excel table (.xlsx), got {str(path)!r}: {error}. Save it as CSV.") from None
    for number, row in enumerate(sheet.iter(f"{_NAMESPACE}row"), 1):
        cells: list[str] = []
        for position, cell in enumerate(row.iter(f"{_NAMESPACE}c")):
            column = _column(cell.get("r")) if cell.get("r") else position
            cells += [""] * (column + 1 - len(cells))
            cells[column] = _value(cell, shared)
        if any(cells):
            yield cells, int(row.get("r") or number)


def _sheet_file(archive: zipfile.ZipFile, sheet_name: str | None) -> str:
    sheets = list(ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{_NAMESPACE}sheet"))
    sheet = next((one for one in sheets if one.get("name") == sheet_name), sheets[0])
    links = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    target = next(link.get("Target", "") for link in links if link.get("Id") == sheet.get(_RELATION))
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _text(element: ElementTree.Element) -> str:
    return "".join(one.text or "" for one in element.iter(f"{_NAMESPACE}t"))


def _value(cell: ElementTree.Element, shared: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = cell.findtext(f"{_NAMESPACE}v") or ""
    return shared[int(value)] if cell.get("t") == "s" and value else value


def _column(reference: str | None) -> int:
    """`"AB12"` -> 27."""
    column = 0
    for letter in re.match(r"[A-Z]*", reference or "").group():  # type: ignore[union-attr]
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1
