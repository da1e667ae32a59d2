"""`python -m hf_sqa` is the command `hf-sqa`."""

from hf_sqa.cli import main

if __name__ == "__main__":
    main()
