"""Recordings in folders as people have them, and names in tables as people and programs write them."""

import os
import unicodedata

import pytest

from hf_sqa.folders import APPLE_DOUBLE, AudioFolders, expand_pattern, find_named, find_recordings


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """`tree("a.wav", "b/c.wav")`: makes files below the working folder; `name -> target` makes a link."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            name, _, target = name.partition(" -> ")
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if target:
                (tmp_path / name).symlink_to(target)
            else:
                (tmp_path / name).write_bytes(b"RIFF")
        return tmp_path

    return make


FOLDERS = {
    "in depth, in order of their parts": (["b.wav", "a/z.wav", "a-b/c.FLAC", "a/notes.txt"], ["a/z.wav", "a-b/c.FLAC", "b.wav"]),
    "below a loop": (["sub/a.wav", "sub/loop -> ..", "sub/self -> ."], ["sub/a.wav"]),
    "below two loops": (["s/a.wav", "s/one -> ..", "s/two -> ../s"], ["s/a.wav"]),
    "in a linked folder": (["data/linked -> ../outside", "outside/a.wav"], ["linked/a.wav"]),
    "in a folder linked twice": (["data/y -> ../outside", "data/x -> ../outside", "outside/a.wav"], ["x/a.wav"]),
    "in a folder that is linked beside itself": (["data/b/a.wav", "data/a -> b"], ["b/a.wav"]),
    "behind a link, where a link is all there is": (["data/0.wav -> ../all/a.wav", "all/a.wav"], ["0.wav"]),
    "beside a link to it": (["data/0.wav -> z.wav", "data/z.wav"], ["z.wav"]),
    "behind two links": (["data/2.wav -> ../a.wav", "data/1.wav -> ../a.wav", "a.wav"], ["1.wav"]),
    "that a link promises and nobody has": (["data/gone.wav -> nowhere.wav"], ["gone.wav"]),
    "that is a link to itself": (["data/a.wav", "data/b.wav -> b.wav"], ["a.wav", "b.wav"]),
    "in a hidden folder": (["data/.cache/a.wav"], [".cache/a.wav"]),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_gives_each_recording_once(kind, tree):
    names, expected = FOLDERS[kind]
    root = tree(*names)
    folder = "data" if any(name.startswith("data/") for name in names) else "."

    assert find_recordings(folder) == [path if folder == "." else f"data/{path}" for path in expected]
    assert find_recordings(root / folder) == [str(root / folder / path) for path in expected]


PATTERNS = {
    "**/*.wav": ["a.wav", "b/c.wav", "b/d/e.wav", "x/f.wav"],
    "*/**/*.wav": ["b/c.wav", "b/d/e.wav", "x/f.wav"],
    "b/**/e.wav": ["b/d/e.wav"],
    "**/d/*": ["b/d/e.wav"],
    "b/**": ["b/c.wav", "b/d/e.wav", "b/d/loop/x.txt"],
    "*.wav": ["a.wav"],
    "[ax].wav": ["a.wav"],
    "b/*.wav": ["b/c.wav"],
    "**/nothing.wav": [],
}


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_gives_each_file_once(pattern, absolute, tree):
    root = tree("a.wav", "b/c.wav", "b/d/e.wav", "b/d/loop/x.txt", "b/d/up -> ..", "b/round -> ../b", "x -> outside")
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (outside / "f.wav").write_bytes(b"RIFF")
    (root / "x").unlink()
    (root / "x").symlink_to(outside)
    prefix = f"{root}/" if absolute else ""

    found = expand_pattern(prefix + pattern)

    assert found == [prefix + path for path in PATTERNS[pattern] if path != "b/d/loop/x.txt" or pattern == "b/**"]


def test_a_glob_leaves_out_what_is_hidden_unless_it_is_asked_for(tree):
    tree(".h/a.wav", "b/.c.wav", "b/d.wav")

    assert expand_pattern("**/*.wav") == ["b/d.wav"]
    assert expand_pattern(".h/**/*.wav") == [".h/a.wav"]
    assert expand_pattern("**/.c.wav") == ["b/.c.wav"]


def test_companions_of_macos_are_no_recordings_and_a_recording_of_such_a_name_is_one(tree):
    root = tree("a.wav", "._b.wav")
    (root / "._a.wav").write_bytes(APPLE_DOUBLE + bytes(100))

    assert find_recordings(".") == ["._b.wav", "a.wav"]
    assert expand_pattern("*.wav") == ["a.wav"]


def test_pipes_are_not_opened(tree):
    root = tree("a.wav")
    os.mkfifo(root / "b.wav")

    assert find_recordings(".") == ["a.wav"]


def test_a_link_up_the_tree_does_not_bring_what_lies_beside_it(tree):
    tree("beside.wav", "data/a.wav", "data/up -> ../..", "data/top -> ..")

    assert find_recordings("data") == ["data/a.wav"]


def test_a_folder_that_cannot_be_listed_is_said(tree):
    tree("a.wav")
    unlisted = []

    assert find_recordings("a.wav/absent", unlisted=unlisted) == []
    assert [type(error) for error in unlisted] == [NotADirectoryError]
    with pytest.raises(NotADirectoryError):
        find_recordings("a.wav/absent")


NAMES = {
    "as it is": ("calls/a.wav", "calls/a.wav"),
    "backslashes": ("calls/a.wav", "calls\\a.wav"),
    "backslashes from here": ("calls/a.wav", ".\\calls\\a.wav"),
    "without suffix": ("calls/a.wav", "calls/a"),
    "without suffix, upper case": ("calls/a.WAV", "calls/a"),
    "dots in the name, without suffix": ("calls/a.1.flac", "calls/a.1"),
    "one piece for two": ("calls/Gr\u0075\u0308\u00dfe.wav", "calls/Gr\u00fc\u00dfe.wav"),
    "two pieces for one": ("calls/Gr\u00fc\u00dfe.wav", "calls/Gr\u0075\u0308\u00dfe.wav"),
    "one piece in the folder, two in the file": ("\u00e4/\u0061\u0308.wav", "\u0061\u0308/\u00e4.wav"),
    "all at once": ("s\u00e4tze/\u0061\u0308.wav", "s\u0061\u0308tze\\\u00e4"),
    "a real backslash": ("calls\\a.wav", "calls\\a.wav"),
}


@pytest.mark.parametrize("finder", [find_named, lambda name: AudioFolders().find(name)], ids=["one", "many"])
@pytest.mark.parametrize("kind", NAMES)
def test_a_name_of_a_table_finds_its_file(kind, finder, tree):
    there, named = NAMES[kind]
    tree(there)

    found = finder(named)

    assert found is not None
    assert os.path.samefile(found, there)


def test_the_file_of_exactly_that_name_comes_first(tree):
    for name in ("\u00e4.wav", "\u0061\u0308.wav", "b", "b.wav", "c\\d.wav", "c/d.wav"):
        tree(name)

    assert find_named("\u00e4.wav") == "\u00e4.wav"
    assert find_named("\u0061\u0308.wav") == "\u0061\u0308.wav"
    assert find_named("b") == "b"
    assert find_named("c\\d.wav") == "c\\d.wav"


@pytest.mark.parametrize("name", ["absent.wav", "calls/absent", "a\\b", "\u00e4" * 40 + "/x", "", "a\0b.wav"])
def test_what_is_not_there_is_not_found(name, tree):
    tree("calls/a.wav")

    assert find_named(name) is None
    assert AudioFolders().find(name) is None


def test_many_accents_do_not_take_for_ever(tree):
    tree("a.wav")

    assert find_named("/".join([unicodedata.normalize("NFD", "\u00e4")] * 300)) is None
