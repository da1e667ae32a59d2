"""`hf-sqa info`: checks the installation; the first command to run."""

import typer

from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, quiet, stop

#: Score of the built-in sample in float32 with each model that can be the default, and how much machines may differ.
SAMPLE_SCORES, SAMPLE_TOLERANCE = {"distill-mos-v7": 2.843, "distilled-sqa-m": 2.345}, 0.01


@faults_end_it()
def info() -> None:
    """Print versions, device and installed models, and check the installation by scoring a built-in sample.

    Exit code 1 if no model is installed or the sample's score is wrong.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version
    from importlib.resources import files

    import torch

    quiet()
    import hf_sqa.pipelines

    typer.echo(
        f"hf-sqa          {hf_sqa.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    for package in ("torch", "transformers", "huggingface-hub", "soundfile", "soxr", "datasets", "peft", "onnxruntime"):
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed (optional)"
        typer.echo(f"{package:<15} {found}")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    typer.echo(f"{'device':<15} {accelerator or 'cpu'}, {torch.get_num_threads()} threads")
    for name, place in hf_sqa.pipelines.models_at_hand():
        typer.echo(f"{'model':<15} {name} ({place})")

    try:
        scorer = hf_sqa.pipelines.pipeline()
    except (OSError, ValueError) as error:
        stop(f"the default model cannot be used: {error}", EXIT_FAILED)
    name = str(scorer.identity()["id"])
    score, expected = scorer(files("hf_sqa").joinpath("assets/sample.flac").read_bytes())["mos"], SAMPLE_SCORES[name]
    works = abs(score - expected) <= SAMPLE_TOLERANCE
    typer.echo(f"{'sample':<15} {name} scored {score:.3f}, expected {expected:.3f}: {'works' if works else 'DIFFERS'}")
    if not works:
        raise typer.Exit(EXIT_FAILED)
