"""The Space: scores, compares and batches recordings of speech, with hf_sqa."""

from hf_sqa.demo.app import build, launch
from hf_sqa.demo.folder import models_beside

demo = build(models_beside(__file__))

if __name__ == "__main__":
    launch(demo)
