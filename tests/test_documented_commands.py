"""What the pages tell to type is there: commands, options, recipes and studies by name, scripts and files."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from hf_sqa.cli import app
from hf_sqa.shipped import shipped_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("model_cards/*.md")])]
PROGRAM = typer.main.get_command(app)
SHIPPED = {"train": "recipes", "distill": "recipes", "study": "studies"}


def blocks(text):
    """Lines of shell commands, continued lines joined, each with the block or paragraph around it."""
    for _, block in re.findall(r"^```(bash|console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from ((line.removeprefix("$ "), block) for line in block.replace("\\\n", " ").splitlines())
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", outside):
        yield from ((" ".join(code.split()), paragraph) for code in re.findall(r"`((?:hf-sqa|sh|bash|python) [^`]*)`", paragraph))


def words_of(line):
    """The words of a command line, up to a comment, a pipe or what is left out."""
    try:
        words = shlex.split(line.partition(" #")[0])
    except ValueError:
        return []
    ends = [place for place, word in enumerate(words) if word in ("|", "&&", "||", ">", ";", "...")]
    return words[: ends[0]] if ends else words


def faults(line, around=""):
    """What a line names that is not there, or only in a clone of the repository where nothing around it says so."""
    for part in re.split(r"\s(?:&&|\|)\s", line):
        words = typed = words_of(part)
        if "hf_sqa" in words and words[words.index("hf_sqa") - 1] == "-m":
            words = ["hf-sqa", *words[words.index("hf_sqa") + 1 :]]
        if words[:1] == ["hf-sqa"]:
            yield from faults_of_ours(words[1:])
        elif words[:1] and words[0] in ("python", "sh", "bash"):
            yield from (f"no file {word}" for word in words[1:2] if word.endswith((".py", ".sh")) and not (ROOT / word).is_file())
        yield from (
            f"{word} is not in the wheel, and nothing says that it needs a clone"
            for word in typed
            if word.startswith("train_scripts/") and typed[0] != "hf-sqa" and (ROOT / word).is_file() and "clone" not in around
        )


def faults_of_ours(words):
    command, name = PROGRAM, None
    while words and hasattr(command, "commands"):
        if words[0].startswith("-") or not re.fullmatch(r"[a-z-]+", words[0]):
            break
        if words[0] not in command.commands:
            yield f"no command {words[0]!r}"
            return
        name, command, words = words[0], command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    for word in words:
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", word) and option not in known:
            yield f"{name}: no option {option}"
        if word.startswith("train_scripts/"):
            yield f"{name}: {word} is not in the wheel"
        if word.startswith("examples/") and "*" not in word and not (ROOT / word).exists():
            yield f"{name}: no file {word}"
    is_name = name in SHIPPED and words and re.fullmatch(r"\w[\w.-]*", words[0]) and not words[0].endswith(".yaml")
    if is_name and words[0] not in shipped_files(SHIPPED[name]):
        yield f"{name}: {words[0]!r} does not come with the package"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_there(page):
    found = [f"{line}: {fault}" for line, around in blocks(page.read_text(encoding="utf-8")) for fault in faults(line, around)]

    assert not found


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("hf-sqa scroe examples", "no command 'scroe'"),
        ("hf-sqa score a.wav --colour  # nice", "score: no option --colour"),
        ("hf-sqa corpus bild bench", "no command 'bild'"),
        ("hf-sqa train w2v-gerr data.limit=3", "train: 'w2v-gerr' does not come with the package"),
        ("torchrun --nproc_per_node 2 -m hf_sqa study nothing --output o", "study: 'nothing' does not come with the package"),
        ("hf-sqa score examples/absent.flac", "score: no file examples/absent.flac"),
        ("hf-sqa train train_scripts/recipes/w2v-ger.yaml", "train: train_scripts/recipes/w2v-ger.yaml is not in the wheel"),
        ("sh train_scripts/absent.sh x", "no file train_scripts/absent.sh"),
        (
            "sh train_scripts/two_minutes.sh x",
            "train_scripts/two_minutes.sh is not in the wheel, and nothing says that it needs a clone",
        ),
        (
            "accelerate launch --config_file train_scripts/accelerate/fsdp2.yaml -m hf_sqa train w2v-ger",
            "train_scripts/accelerate/fsdp2.yaml is not in the wheel, and nothing says that it needs a clone",
        ),
    ],
)
def test_what_is_not_there_is_found(line, fault):
    assert list(faults(line)) == [fault]


def test_what_needs_a_clone_may_be_named_where_that_is_said():
    [(line, around)] = blocks("In a clone, `sh train_scripts/two_minutes.sh x` fetches five talkers.\n\nThe next paragraph.\n")

    assert not list(faults(line, around))


def test_the_pages_hold_commands_to_look_at():
    commands = [line for page in PAGES for line, _ in blocks(page.read_text(encoding="utf-8")) if line.startswith("hf-sqa ")]

    assert len(commands) > 100
