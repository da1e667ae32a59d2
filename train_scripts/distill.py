"""`hf-sqa distill` as a script; `--help` lists the options."""

import sys

from hf_sqa.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["distill"]
    main()
