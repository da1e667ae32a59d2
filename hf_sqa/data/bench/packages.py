"""The Debian packages of the bench corpus: downloaded by apt or put there by hand, checked by SHA-256, unpacked without dpkg.

A `.deb` is an `ar` archive with a tar archive in it: nothing of Debian is needed to read one.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from hf_sqa.data.bench.speech import FORM_VOICES, VOICES, MissingPackagesError
from hf_sqa.runs import whole_folder

#: Version and SHA-256 of every package in Debian 12.
PACKAGES = {
    "asterisk-core-sounds-en-g722": ("1.6.1-1", "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"),
    "asterisk-core-sounds-es-g722": ("1.6.1-1", "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8"),
    "asterisk-core-sounds-fr-g722": ("1.6.1-1", "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0"),
    "asterisk-core-sounds-it-g722": ("1.6.1-1", "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016"),
    "asterisk-core-sounds-ru-g722": ("1.6.1-1", "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b"),
    "fillets-ng-data-cs": ("1.0.1-1.1", "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14"),
}
AR_MAGIC, AR_HEADER_BYTES = b"!<arch>\n", 60


def fetch_packages(form: str, folder: Path, progress: Callable[[int, int, str], None] = lambda *_: None) -> Path:
    """Put the recordings of a form into a folder, in a subfolder per package; packages already there are not fetched again.

    `.deb` files in the folder are used rather than downloaded. `progress` is called with the number of packages done, the number
    of all packages, and the name of the current one. Without apt-get, a [`MissingPackagesError`] names the missing ones.
    """
    names = sorted({VOICES[voice].package for voice in FORM_VOICES[form]})
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names if not (folder / name).is_dir()]
    if shutil.which("apt-get") is None and (missing := [name for name in wanted if _lying(name, folder) is None]):
        files = ", ".join(f"{name}_{PACKAGES[name][0]}_all.deb" for name in missing)
        raise MissingPackagesError(
            f"There is no apt-get here to download packages with. Put {files} (https://packages.debian.org/bookworm/) into "
            f"{str(folder)!r}; the same command checks and unpacks them."
        )
    for done, name in enumerate(wanted):
        progress(done, len(wanted), name)
        package = _lying(name, folder) or _downloaded(name, folder)
        with whole_folder(folder / name) as unpacked:
            unpack(package, name, unpacked)
        package.unlink()
    progress(len(wanted), len(wanted), "")
    return folder


def unpack(package: Path, name: str, folder: Path) -> None:
    """Check the SHA-256 of a `.deb` and write its recordings into a folder, under their paths in the package."""
    version, expected = PACKAGES[name]
    content = package.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ValueError(
            f"Expected the package {name} {version} with SHA-256 {expected}, got {package.name!r} with {digest}: another version, "
            "or a broken download, which is not used. Delete it; Debian 12 has the right one."
        )
    roots = tuple(f"{voice.folder}/" for voice in VOICES.values() if voice.package == name)
    with tarfile.open(fileobj=io.BytesIO(_data_of(content, package.name))) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            is_recording = member.isfile() or member.islnk() or member.issym()  # links are written as the files they point to
            if is_recording and path.startswith(roots) and ".." not in path.split("/"):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.extractfile(member) as recording, target.open("wb") as file:  # type: ignore[union-attr]
                    shutil.copyfileobj(recording, file)


def _data_of(content: bytes, name: str) -> bytes:
    """Return the member `data.tar.*` of an `ar` archive."""
    place = len(AR_MAGIC)
    while content.startswith(AR_MAGIC) and place + AR_HEADER_BYTES <= len(content):
        header = content[place : place + AR_HEADER_BYTES]
        size = int(header[48:58])
        place += AR_HEADER_BYTES
        if header.startswith(b"data.tar"):
            return content[place : place + size]
        place += size + size % 2
    raise ValueError(f"Expected {name!r} to be a Debian package, an ar archive with data.tar in it, got something else.")


def _lying(name: str, folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{name}_*.deb"))), None)


def _downloaded(name: str, folder: Path) -> Path:
    done = subprocess.run(["apt-get", "download", "-q", name], cwd=folder, capture_output=True, text=True)
    package = _lying(name, folder)
    if done.returncode or package is None:
        why = " ".join(done.stderr.split())[-300:] or "it says nothing"
        raise OSError(f"apt-get cannot download {name} ({why}). `apt-get update` may help.")
    return package
