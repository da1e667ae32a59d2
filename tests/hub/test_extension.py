"""What `hf extensions install` asks of a repository, so that `hf sqa score ...` is our command."""

import tomllib
from pathlib import Path

from huggingface_hub.cli import extensions

ROOT = Path(__file__).parents[2]


def test_the_repository_and_the_command_have_the_names_that_hf_looks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Homepage"].removeprefix("https://github.com/")

    owner, name, command = extensions._normalize_repo_id(repository)

    assert f"{owner}/{name}" == repository and command == "sqa"
    assert extensions._get_executable_name(command).removesuffix(".exe") in project["scripts"]
    assert not (ROOT / name).is_file()  # hf would take it for a shell script and install no package
