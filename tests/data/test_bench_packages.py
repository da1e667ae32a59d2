"""Packages of the bench corpus: downloaded, checked and unpacked, without Debian too."""

import hashlib
import io
import os
import sys
import tarfile

import pytest

from hf_sqa.data.bench import MissingPackagesError, packages
from hf_sqa.data.bench.packages import PACKAGES, fetch_packages
from hf_sqa.data.bench.speech import FORM_VOICES, VOICES


def deb(files):
    """The bytes of a Debian package."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            if name.endswith("hello.g722"):
                link = tarfile.TarInfo(f"./{name.replace('hello', 'linked')}")
                link.type, link.linkname = tarfile.SYMTYPE, "hello.g722"
                archive.addfile(link)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


@pytest.fixture
def debs(monkeypatch):
    """A package for every voice of the small form, with a recording, and something else that is not one."""
    made = {}
    for name in FORM_VOICES["ci"]:
        voice = VOICES[name]
        files = {f"{voice.folder}/hello.g722": name.encode() * 100, "usr/share/doc/copyright": b"text", "../out.g722": b"no"}
        made[voice.package] = deb(files)
    known = {name: ("1.6.1-1", hashlib.sha256(content).hexdigest()) for name, content in made.items()}
    monkeypatch.setattr(packages, "PACKAGES", {**PACKAGES, **known})
    return made


@pytest.fixture
def without_apt(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_packages_that_lie_there_are_checked_and_unpacked_without_debian(debs, tmp_path, without_apt):
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, content in debs.items():
        (folder / f"{name}_1.6.1-1_all.deb").write_bytes(content)
    told = []

    fetch_packages("ci", folder, lambda *state: told.append(state))

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    folders = [f"{VOICES[name].package}/{VOICES[name].folder}" for name in FORM_VOICES["ci"]]
    assert files == sorted(f"{place}/{stem}.g722" for place in folders for stem in ("hello", "linked"))
    assert len({(folder / file).read_bytes() for file in files}) == 5
    assert not (tmp_path / "out.g722").exists()
    assert told[0][:2] == (0, 5) and told[-1][:2] == (5, 5)
    fetch_packages("ci", folder)  # nothing is left to do


def test_another_file_than_the_known_one_is_refused(debs, tmp_path, without_apt):
    for name, content in debs.items():
        (tmp_path / f"{name}_1.6.1-1_all.deb").write_bytes(content[:-1])

    with pytest.raises(ValueError, match=r"Expected the package asterisk-core-sounds-en-g722 1\.6\.1-1 with SHA-256 .* not used"):
        fetch_packages("ci", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_without_apt_the_files_to_put_there_are_named(tmp_path, without_apt):
    with pytest.raises(MissingPackagesError, match=r"Put asterisk-core-sounds-en-g722_1\.6\.1-1_all\.deb, .* into"):
        fetch_packages("ci", tmp_path / "packages")


@pytest.mark.skipif(os.name == "nt", reason="needs programs that are scripts")
def test_what_is_missing_is_downloaded_by_apt(debs, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "store").mkdir()
    for name, content in debs.items():
        (tmp_path / "store" / f"{name}_1.6.1-1_all.deb").write_bytes(content)
    program = tmp_path / "bin" / "apt-get"
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"shutil.copy(f'{tmp_path}/store/{{sys.argv[-1]}}_1.6.1-1_all.deb', '.') if sys.argv[1] == 'download' else sys.exit(1)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    fetch_packages("ci", tmp_path / "packages")

    assert len(list((tmp_path / "packages").rglob("*.g722"))) == 10
    (tmp_path / "store" / "asterisk-core-sounds-it-g722_1.6.1-1_all.deb").unlink()
    with pytest.raises(OSError, match="apt-get cannot download asterisk-core-sounds-it-g722"):
        fetch_packages("ci", tmp_path / "others")
