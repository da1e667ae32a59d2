"""Puts trained students into the package: float16 weights, configuration, extractor, and the results of `hf-sqa distill --test`.

python model_cards/ship_students.py s=distilled_sqa-s xs=distilled_sqa-xs    # size=folder that `hf-sqa distill` wrote
python model_cards/make_cards.py --measure ../shared --only distilled-sqa-s distilled-sqa-xs
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.cli.distill import AGREEMENT
from hf_sqa.short_names import DEFAULT_MODEL, STUDENTS_FOLDER

HERE = Path(__file__).parent
METRICS = ("utt_lcc", "utt_srcc", "utt_rmse")


def ship(size: str, source: Path) -> Path:
    """Write a student into the package.

    Weights are float16, statistics of norms and tables float32; the configuration says float32, so that they are loaded as that.
    """
    name = f"distilled-sqa-{size}"
    folder = STUDENTS_FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    model = AutoModelForAudioQuality.from_pretrained(source, dtype=torch.float32)
    model.config.checkpoint_name = name
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    weights = {key for key, _ in model.named_parameters()}
    state = {key: (tensor.half() if key in weights else tensor).contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    return folder


def agreement_rows(source: Path) -> list[dict]:
    """The results of `--test`, as rows of a card."""
    found = json.loads((source / AGREEMENT).read_text(encoding="utf-8"))
    return [
        {
            "dataset": f"{DEFAULT_MODEL} on windows of other talkers",
            "split": "test talkers (it, cs)",
            "metric": metric,
            **{key: round(value, 4) for key, value in found["mos"][metric].items()},
            "num_clips": found["num_windows"],
        }
        for metric in METRICS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", metavar="SIZE=FOLDER")
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    for one in parser.parse_args().students:
        size, source = one.split("=", 1)
        folder = ship(size, Path(source))
        results[folder.name] = {"teacher": agreement_rows(Path(source))}
        sys.stdout.write(f"{folder}: {(folder / 'model.safetensors').stat().st_size:,} bytes\n")
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
