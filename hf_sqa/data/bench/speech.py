"""The speech of the bench corpus: recorded prompts and game dialogue from Debian packages, found, selected and converted."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from hf_sqa.audio import load_recording
from hf_sqa.degradations import band_pass, level_dbfs, set_level
from hf_sqa.degradations.codec.ffmpeg import run_ffmpeg

SAMPLING_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 2.2, 6.0
#: G.722 at 64 kb/s, so the length follows from the size.
G722_BYTES_PER_SECOND = 8000
#: Folders of prompts that are not phrases, and a word in the names of prompts with signal tones.
NO_PHRASES, SIGNAL = ("digits", "letters", "phonetic", "silence"), "tone"
#: Pass band: G.722's filter bank leaves a tone at 8 kHz, and prompts have hum.
LOW_HZ, HIGH_HZ = 60.0, 7400.0
#: Active level of speech in listening tests, in dB relative to overload (ITU-T P.800).
LEVEL_DBFS = -26.0
#: Quieter files are not prompts: silence through G.722 is noise near -80 dBFS, which would be amplified to the level of speech.
MIN_LEVEL_DBFS = -60.0
G722_CODEC, VORBIS_CODEC = "g722", "vorbis"


@dataclass(frozen=True)
class Voice:
    """One talker in one language."""

    name: str  # name of its folder in the corpus
    # who speaks. The English and the Spanish prompts are by one person, according to the packages' CREDITS file, so they are in the
    # same part of every split
    talker: str
    language: str  # ISO 639-1
    split: str  # `"train"`, `"validation"` or `"test"`; a talker is in only one
    package: str  # Debian package
    folder: str  # folder of the recordings, relative to the root of the package
    pattern: str  # glob of the recordings in this folder
    codec: str  # `"g722"` or `"vorbis"`
    licence: str  # licence of the recordings and of what is derived from them


def _prompts(language: str, talker: str, split: str, folder: str, licence: str) -> Voice:
    package = f"asterisk-core-sounds-{language}-g722"
    return Voice(
        language, talker, language, split, package, f"usr/share/asterisk/sounds/{folder}", "**/*.g722", G722_CODEC, licence
    )


def _dialogue(character: str, split: str) -> Voice:
    folder = "usr/share/games/fillets-ng/sound"
    pattern = f"**/cs/*-{character}-*.ogg"
    return Voice(
        f"cs-{character}", f"cs-{character}", "cs", split, "fillets-ng-data-cs", folder, pattern, VORBIS_CODEC, "GPL-2.0-or-later"
    )


VOICES = {
    voice.name: voice
    for voice in (
        _prompts("en", "allison", "train", "en_US_f_Allison", "CC-BY-SA-3.0"),
        _prompts("es", "allison", "train", "es_MX_f_Allison", "CC-BY-SA-3.0"),
        _prompts("fr", "june", "train", "fr_CA_f_June", "CC-BY-SA-3.0"),
        _prompts("it", "carlo", "test", "it_IT_m_Carlo", "CC-BY-3.0"),
        _prompts("ru", "ivrvoice", "validation", "ru_RU_f_IvrvoiceRU", "CC-BY-3.0"),
        _dialogue("m", "train"),
        _dialogue("v", "test"),
    )
}
FORM_VOICES = {"ci": ("en", "es", "fr", "it", "ru"), "training": tuple(VOICES)}


class MissingPackagesError(FileNotFoundError):
    """Recordings, a program or a library are missing; the message names the Debian packages and how to get them."""


@dataclass(frozen=True)
class Phrase:
    """One recording."""

    voice: str  # key of `VOICES`
    name: str  # its file, relative to the voice's folder, with suffix
    path: str  # where it is
    num_bytes: int  # its size; a file of another size is another recording

    @property
    def stem(self) -> str:
        """Its name as a file name without folder and suffix, unique within the voice."""
        return self.name.rsplit(".", 1)[0].replace("/", "_")


def find_phrases(form: str, packages: str | Path | None = None, num_phrases: int | None = None) -> list[Phrase]:
    """Find the phrases of 2.2 to 6 s for the form `"ci"` or `"training"`, the same on every machine.

    `packages` is the folder with the unpacked packages, all together or each in its own subfolder, by default those installed on
    this machine. `num_phrases` of each voice, by default all, are drawn by a hash of their names.

    Raises:
        MissingPackagesError: If the recordings of a voice are missing.
        ValueError: If a voice has fewer phrases than asked for.
    """
    root = Path(packages) if packages is not None else Path("/")
    roots = [root] if packages is None else [root, *sorted(folder for folder in root.glob("*") if folder.is_dir())]
    places = {name: [root / VOICES[name].folder for root in roots] for name in FORM_VOICES[form]}
    folders = {name: next((path for path in paths if any(path.glob(VOICES[name].pattern))), None) for name, paths in places.items()}
    missing = {VOICES[name].package for name, folder in folders.items() if folder is None}
    if missing:
        raise MissingPackagesError(_how_to_get(form, missing, root))
    phrases = []
    for name, folder in folders.items():
        assert folder is not None
        usable = _phrases_of(VOICES[name], folder)
        if len(usable) < (num_phrases or 1):
            raise ValueError(
                f"Expected {num_phrases or 1} phrases or more of {name!r}, {MIN_SECONDS} to {MAX_SECONDS:.0f} s long, got "
                f"{len(usable)} in {str(folder)!r}; ask for fewer, or unpack {VOICES[name].package} again."
            )
        drawn = sorted(usable, key=lambda phrase: hashlib.sha256(f"{phrase.voice}/{phrase.name}".encode()).digest())[:num_phrases]
        phrases += sorted(drawn, key=lambda phrase: phrase.name)
    return phrases


def reference_waveform(phrase: Phrase) -> np.ndarray:
    """Return a phrase as a reference recording of the corpus: mono float32 at 16 kHz, 60 to 7400 Hz, active level -26 dBFS.

    Raises:
        AudioError: If a Vorbis file cannot be read, or cannot be judged.
        ValueError: If a phrase is silent, or quieter than -60 dBFS.
        RuntimeError: If ffmpeg is not installed, or cannot decode a G.722 file.
    """
    if VOICES[phrase.voice].codec == G722_CODEC:
        options = ["-f", "g722", "-i", phrase.path, "-f", "s16le", "-ac", "1", "pipe:1"]
        waveform = np.frombuffer(run_ffmpeg(G722_CODEC, options), "<i2").astype(np.float32) / np.float32(32768)
    else:
        waveform = load_recording(phrase.path, sampling_rate=SAMPLING_RATE).waveform
    waveform = band_pass(waveform, SAMPLING_RATE, low_hz=LOW_HZ, high_hz=HIGH_HZ)
    level = level_dbfs(waveform, SAMPLING_RATE, "active")
    if level < MIN_LEVEL_DBFS:
        raise ValueError(
            f"Expected speech above {MIN_LEVEL_DBFS:.0f} dBFS, got {level:.1f} dBFS: this is silence. Unpack its package again."
        )
    return set_level(waveform, SAMPLING_RATE, target_dbfs=LEVEL_DBFS, measure="active")


def _phrases_of(voice: Voice, folder: Path) -> list[Phrase]:
    phrases = []
    for path in sorted(folder.glob(voice.pattern)):
        name = path.relative_to(folder).as_posix()
        is_phrase = voice.codec != G722_CODEC or (path.parent.name not in NO_PHRASES and SIGNAL not in path.name)
        is_g722 = path.suffix == ".g722"
        seconds = path.stat().st_size / G722_BYTES_PER_SECOND if is_g722 else soundfile.info(path).duration if is_phrase else 0
        if is_phrase and MIN_SECONDS <= seconds <= MAX_SECONDS:
            phrases.append(Phrase(voice.name, name, str(path), path.stat().st_size))
    return phrases


def _how_to_get(form: str, missing: set[str], root: Path) -> str:
    needed = sorted({VOICES[name].package for name in FORM_VOICES[form]})
    where = "on this machine" if root == Path("/") else f"in {str(root)!r}"
    folder = "packages" if root == Path("/") else str(root)
    return (
        f"Expected the recordings of {len(needed)} Debian packages, got {len(needed) - len(missing)} of them {where}; missing: "
        f"{', '.join(sorted(missing))}. Add `--fetch`: it downloads them by apt-get, checks and unpacks them; without "
        f"apt-get, it says which files to put where. By hand: `apt-get download {' '.join(sorted(missing))}`, then "
        f"`for package in *.deb; do dpkg-deb -x $package {folder}; done`, and give the folder with `--packages {folder}`."
    )
