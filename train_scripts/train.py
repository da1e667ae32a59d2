"""`hf-sqa train` as a script: `torchrun --nproc_per_node 2 train_scripts/train.py w2v-ger training.use_cpu=true`."""

import sys

from hf_sqa.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
