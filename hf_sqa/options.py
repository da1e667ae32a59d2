"""Converts YAML or a mapping to a dataclass; an error names the file, the key and the nearest known word.

content = apply_overrides(load_yaml("mine.yaml"), ["training.seed=1", "data.train.0.root=/data"])
recipe = read_options(Recipe, content, "the recipe 'mine.yaml'")
"""

import copy
import dataclasses
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hf_sqa.choices import did_you_mean

Options = TypeVar("Options")

#: Names of types in messages.
TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    Sequence: "a list",
}


def read_options(cls: type[Options], content: Any, source: str = "the options", section: str = "") -> Options:
    """Make a dataclass from a mapping, and check every key and type.

    Fields may be `str`, `int`, `float`, `bool`, `Any`, `Literal`, other dataclasses, lists, tuples and mappings of these, and
    unions. An integer is accepted as a `float`, a path as a `str`, and a single text or mapping as a list with one element. A field
    given as `None` keeps its default. Errors name the `source`, such as `"the recipe 'mine.yaml'"`, and the dotted key of the
    `section` in it.

    Raises:
        TypeError: If a key is unknown; the message suggests the nearest.
        ValueError: If a value is missing, is of another type, or is refused by the dataclass.
    """
    place = f"`{section}` of {source}" if section else source
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected {place} to be a mapping, got {content!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    refuse_unknown(content, fields, place)
    hints = typing.get_type_hints(cls)
    values = {
        name: _converted(hints[name], value, source, f"{section}.{name}" if section else name)
        for name, value in content.items()
        if value is not None
    }
    required = [name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING]
    if missing := [f"`{name}`" for name in required if name not in values]:
        raise ValueError(f"Expected {', '.join(missing)} in {place}, got {', '.join(values) or 'nothing'}.")
    try:
        return cls(**values)
    except ValueError as error:  # from the dataclass's own checks, which do not know the place
        raise ValueError(f"In {place}: {error}") from None


def _converted(hint: Any, value: Any, source: str, key: str) -> Any:
    """Convert a value to its type hint, or raise an error that names its key."""
    if hint is Any:
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    choices = tuple(choice for choice in choices if choice is not type(None))
    for choice in choices:
        kind: Any = typing.get_origin(choice) or choice
        arguments, is_only = typing.get_args(choice), len(choices) == 1
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if isinstance(value, kind):
                return value
            if isinstance(value, Mapping) or is_only:
                return read_options(kind, value, source, key)
        elif kind is typing.Literal:
            if value in arguments:
                return value
        elif kind in (list, tuple, Sequence):
            if isinstance(value, list | tuple) or (isinstance(value, str | Mapping) and is_only):
                items = value if isinstance(value, list | tuple) else [value]
                items = [_converted(arguments[0], item, source, f"{key}.{number}") for number, item in enumerate(items)]
                return tuple(items) if kind is tuple else items
        elif kind in (dict, Mapping):
            if isinstance(value, Mapping):
                return {name: _converted(arguments[1], item, source, f"{key}.{name}") for name, item in value.items()}
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise ValueError(f"Expected `{key}` of {source} to be {' or '.join(map(_named, choices))}, got {value!r}.")


def _named(hint: Any) -> str:
    kind = typing.get_origin(hint) or hint
    return f"one of {', '.join(map(str, typing.get_args(hint)))}" if kind is typing.Literal else TYPE_NAMES.get(kind, "a mapping")


def written(options: Any) -> Any:
    """Convert a dataclass to the content of a file, without values and sections that equal their defaults."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        defaults = {
            field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            for field in dataclasses.fields(options)
        }
        values = {name: getattr(options, name) for name in defaults}
        return {name: written(value) for name, value in values.items() if value != defaults[name]}
    if isinstance(options, list | tuple):
        return [written(item) for item in options]
    if isinstance(options, Mapping):
        return {name: written(item) for name, item in options.items()}
    return options


# ---- YAML


#: Largest number of values in a file with its aliases written out; nested aliases reach any number in ten lines.
MAX_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Loads plain values only. `1e-4` is a number, dates stay text, and a repeated key is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_tag(self) -> None:
        raise yaml.MarkedYAMLError(problem="expected plain values, got a tag", problem_mark=self.get_mark())

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str, source: str = "the text") -> Any:
    """Parse a YAML text of plain values, in which `1e-4` is a number.

    Tags such as `!!python/object`, repeated keys, deep nesting, and aliases that refer to each other or stand for an unreasonable
    number of values are refused (`ValueError`).
    """
    try:
        content = yaml.load(text, _Loader)  # a subclass of SafeLoader
        if _num_values(content, {}) > MAX_VALUES:
            raise ValueError(
                f"Expected at most {MAX_VALUES:,} values in {source}, got more, by aliases of aliases; write them out."
            )
        return content
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML, but {source} is not YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"Expected YAML, but {source} is nested too deeply, or holds itself.") from None


def _num_values(value: Any, known: dict[int, int]) -> int:
    """Return the number of values when every alias is written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(_num_values(item, known) for item in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]


def load_yaml(path: str | os.PathLike[str], what: str = "options") -> dict[str, Any]:
    """Load the mapping in a YAML file; errors call the file `what`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a YAML file of a {what}, but there is no file {str(path)!r}.")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), repr(str(path)))
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected YAML, but {str(path)!r} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"Expected {str(path)!r} to hold a {what}, a mapping of keys, got {type(content).__name__}.")
    return content


def dump_yaml(content: Any) -> str:
    """Convert plain values to YAML, with keys in their order and without a final newline."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=130)).rstrip()


# ---- Changes


def apply_overrides(content: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `content` with overrides applied, each a `dotted.key=value` with the value in YAML.

    Examples are `training.learning_rate=1e-4`, `data.train.0.root=/data/NISQA`, `model.lora=null`; `+=` adds to a list. Missing
    sections are created. Another form, or a key that leads through something that is not a section, is a `ValueError`.
    """
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.removesuffix("+"):
            raise ValueError(f"Expected a change as dotted.key=value, such as training.seed=1, got {override!r}.")
        set_dotted(changed, key.removesuffix("+"), parse_yaml(text, f"the value of {override!r}"), add=key.endswith("+"))
    return changed


def with_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `content` with values set by dotted key; see [`set_dotted`]."""
    changed = copy.deepcopy(dict(content))
    for key, value in values.items():
        set_dotted(changed, key, value)
    return changed


def set_dotted(content: dict[str, Any], key: str, value: Any, *, add: bool = False) -> None:
    """Set a value in place by its dotted key, or add it to the list there; missing sections are created."""
    names = key.split(".")
    if not all(names):
        raise ValueError(f"Expected a dotted key, such as training.seed, got {key!r}.")
    place: Any = content
    for depth, name in enumerate(names):
        slot: Any = name
        above = ".".join(names[:depth])
        if isinstance(place, list):
            if not name.isdigit() or int(name) >= len(place):
                raise ValueError(f"Expected a number below {len(place)} after {above!r}, got {name!r} in {key!r}.")
            slot = int(name)
        elif not isinstance(place, dict):
            raise ValueError(f"Expected a section at {above!r} to set {key!r}, got {place!r} there.")
        old = place[slot] if isinstance(place, list) else place.get(slot)
        if depth < len(names) - 1:
            place[slot] = {} if old is None else old
            place = place[slot]
        elif add:
            place[slot] = [*(old or []), *(value if isinstance(value, list) else [value])]
        else:
            place[slot] = copy.deepcopy(value)  # a later key may change it


# ---- Words


def refuse_unknown(given: Iterable[Any], known: Iterable[str], place: str) -> None:
    """Raise a `TypeError` for the first unknown key, with the nearest known one."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"Unknown key {name!r} in {place}{did_you_mean(name, known)} It takes {', '.join(known) or 'none'}.")
