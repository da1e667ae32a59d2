"""`python -m hf_sqa.lite <graph> <recordings>`: prints rows of scores as JSON lines, without torch."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from hf_sqa.cells import file_row, visible
from hf_sqa.folders import find_recordings
from hf_sqa.lite.scorer import LitePipeline

EXIT_SOME_FAILED, EXIT_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Score files and folders; return the exit code: 1 if a recording has no score, 2 if nothing could be done."""
    parser = argparse.ArgumentParser(prog="python -m hf_sqa.lite", description="Score recordings by an ONNX graph, without torch.")
    parser.add_argument("graph", help="folder with model.onnx and config.json, by `hf-sqa export onnx`")
    parser.add_argument("recordings", nargs="+", help="files, or folders, which are searched in depth")
    parser.add_argument("--segments", action="store_true", help="add the score of every window")
    parser.add_argument("--timeline", action="store_true", help="add the quality of every half second, and the worst stretch")
    parser.add_argument(
        "--interval", type=float, help="add the ends of an interval, such as 0.9, where the checkpoint is calibrated"
    )
    parser.add_argument("--threads", type=int, help="threads; as many as there are cores if not given")
    options = parser.parse_args(arguments)
    try:
        asked = {"return_segments": options.segments, "return_timeline": options.timeline}
        scorer = LitePipeline(options.graph, num_threads=options.threads, on_error="row", return_details=True, **asked)
        columns = scorer.columns(options.interval)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"hf-sqa: {visible(str(error))}\n")
        return EXIT_USAGE
    names = [file for name in options.recordings for file in (find_recordings(name) if os.path.isdir(name) else [name])]
    failed = 0
    for name in names:
        row = file_row(name, columns, scorer(name, interval=options.interval), asked)
        failed += row["status"] != "ok"
        sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    return EXIT_SOME_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
