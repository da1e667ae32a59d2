"""Compare a model with listeners: `python train_scripts/evaluate.py my_test.csv --model my-model`.

The same as `hf-sqa evaluate`; `--help` lists the options.
"""

import typer

from hf_sqa.cli.evaluate import evaluate

if __name__ == "__main__":
    typer.run(evaluate)
