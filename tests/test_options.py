"""Options from YAML: every mistake is named with its place, and nothing but plain values is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from hf_sqa.choices import did_you_mean
from hf_sqa.options import apply_overrides, dump_yaml, load_yaml, parse_yaml, read_options, set_dotted, written


@dataclasses.dataclass(frozen=True)
class Corpus:
    name: str
    limit: int | None = None
    scale: tuple[float, ...] = (1.0, 5.0)

    def __post_init__(self):
        if self.limit == 0:
            raise ValueError("Expected `limit` above 0, got 0.")


@dataclasses.dataclass(frozen=True)
class Run:
    corpora: list[Corpus]
    rate: float = 0.1
    freeze: list[str] = dataclasses.field(default_factory=list)
    group: str | list[str] | None = None
    kind: Literal["mse", "l1"] = "mse"
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ()
    resume: bool = True
    best: Corpus | str = "none"


def test_a_mapping_becomes_the_dataclass_it_describes():
    run = read_options(
        Run,
        {
            "corpora": {"name": "pstn", "scale": [0, 4]},
            "rate": 1,
            "freeze": "encoder",
            "group": ["a"],
            "best": {"name": "x"},
            "kind": None,
        },
    )

    assert run == Run([Corpus("pstn", scale=(0.0, 4.0))], 1.0, ["encoder"], ["a"], best=Corpus("x"))
    assert isinstance(run.rate, float)


def test_what_is_written_reads_as_the_same():
    run = Run([Corpus("pstn", limit=3), Corpus("bvcc")], rate=2.0, extra={"a": 1}, names=["b"])

    assert written(run) == {
        "corpora": [{"name": "pstn", "limit": 3}, {"name": "bvcc"}],
        "rate": 2.0,
        "extra": {"a": 1},
        "names": ["b"],
    }
    assert read_options(Run, parse_yaml(dump_yaml(written(run)))) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": "fast"}, "Expected `rate` of the run 'x.yaml' to be a number, got 'fast'"),
        ({"rate": True}, "Expected `rate` of the run 'x.yaml' to be a number, got True"),
        ({"resume": 1}, "Expected `resume` of the run 'x.yaml' to be true or false, got 1"),
        ({"group": 3}, "Expected `group` of the run 'x.yaml' to be text or a list, got 3"),
        ({"freeze": [3]}, "Expected `freeze.0` of the run 'x.yaml' to be text, got 3"),
        ({"freeze": 3}, "Expected `freeze` of the run 'x.yaml' to be a list, got 3"),
        ({"kind": "l3"}, "Expected `kind` of the run 'x.yaml' to be one of mse, l1, got 'l3'"),
        ({"extra": []}, "Expected `extra` of the run 'x.yaml' to be a mapping"),
        ({"best": 3}, "Expected `best` of the run 'x.yaml' to be a mapping or text, got 3"),
        ({"corpora": [{"limit": 3}]}, "Expected `name` in `corpora.0` of the run 'x.yaml', got limit"),
        ({"corpora": [3]}, "Expected `corpora.0` of the run 'x.yaml' to be a mapping, got 3"),
        ({"corpora": [{"name": "a", "limit": 0}]}, "^In `corpora.0` of the run 'x.yaml': Expected `limit` above 0"),
        ({"corpora": None}, "Expected `corpora` in the run 'x.yaml', got nothing"),
    ],
)
def test_values_of_another_type_are_refused_by_key_and_file(change, message):
    with pytest.raises(ValueError, match=message):
        read_options(Run, {"corpora": []} | change, "the run 'x.yaml'")


def test_an_unknown_key_is_refused_with_the_nearest_and_all_others():
    with pytest.raises(
        TypeError, match=r"Unknown key 'nam' in `corpora\.0` of the run; did you mean 'name'\? It takes name, limit"
    ):
        read_options(Run, {"corpora": [{"nam": "x"}]}, "the run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' stands twice[^$]*line 2"),
        ("a: !!python/object:os.system x", "got a tag"),
        ("a: !mine x", "got a tag"),
        ("a: !!float 1", "got a tag"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_yaml_text_with_more_than_plain_values_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_yaml_numbers_dates_and_merged_keys_are_what_they_look_like():
    text = "base: &base {rate: 1e-4, revision: 2024-01-01}\nmine: {<<: *base, rate: 2}\nwords: '!important'"

    assert parse_yaml(text) == {
        "base": {"rate": 1e-4, "revision": "2024-01-01"},
        "mine": {"rate": 2, "revision": "2024-01-01"},
        "words": "!important",
    }


def test_errors_of_a_file_name_it(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2")

    with pytest.raises(FileNotFoundError, match=r"a YAML file of a recipe, but there is no file '.*nowhere.yaml'"):
        load_yaml(tmp_path / "nowhere.yaml", "recipe")
    with pytest.raises(ValueError, match=r"list.yaml' to hold a recipe, a mapping of keys, got list"):
        load_yaml(tmp_path / "list.yaml", "recipe")
    with pytest.raises(ValueError, match=r"latin.yaml' is not YAML"):
        load_yaml(tmp_path / "latin.yaml")
    with pytest.raises(ValueError, match=r"twice.yaml' is not YAML: the key 'a' stands twice"):
        load_yaml(tmp_path / "twice.yaml")


def test_overrides_change_a_copy():
    content = {"a": {"b": [{"c": 1}]}, "list": [1]}

    changed = apply_overrides(content, ["a.b.0.c=1e-3", "new.section.key=[x]", "list+=2", "list+=[3, 4]", "fresh+=5", "gone=null"])

    assert changed == {
        "a": {"b": [{"c": 1e-3}]},
        "list": [1, 2, 3, 4],
        "new": {"section": {"key": ["x"]}},
        "fresh": [5],
        "gone": None,
    }
    assert content == {"a": {"b": [{"c": 1}]}, "list": [1]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "Expected a change as dotted.key=value"),
        ("=1", "Expected a change as dotted.key=value"),
        ("a..b=1", "Expected a dotted key"),
        ("list.1=0", "Expected a number below 1 after 'list', got '1'"),
        ("list.x=0", "Expected a number below 1 after 'list', got 'x'"),
        ("name.x=0", "Expected a section at 'name' to set 'name.x', got 'text' there"),
        ("a=[", "the value of 'a=\\[' is not YAML"),
    ],
)
def test_overrides_that_have_no_place_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        apply_overrides({"list": [1], "name": "text"}, [override])


def test_a_value_set_twice_is_not_shared():
    content, value = {}, {"x": 1}
    set_dotted(content, "a", value)
    set_dotted(content, "b", value)
    set_dotted(content, "a.x", 2)

    assert content == {"a": {"x": 2}, "b": {"x": 1}}


def test_the_nearest_word_is_suggested_and_none_where_nothing_is_near():
    assert did_you_mean("moz", ["mos", "noisiness"]) == "; did you mean 'mos'?"
    assert did_you_mean("xyz", ["mos"]) == "."
