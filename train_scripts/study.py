"""Run a study: `python train_scripts/study.py finetuning_size --output size`, or under torchrun.

The same as `hf-sqa study`; `--help` lists the options.
"""

import typer

from hf_sqa.cli.study import study

if __name__ == "__main__":
    typer.run(study)
