"""Writes the parity recordings: scores that the authors' own code gave, one JSON file a checkpoint.

    python tests/parity/record.py ../shared/reference/reference.json ../shared/reference/dnsmos_reference.json

The reference was computed by the original implementations; its `meta` names their versions. Only numbers are taken over: names and
digests of the signals, scores, versions. `tests/models/test_parity.py` holds every converted checkpoint to them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOLERANCE = 1e-4  # MOS points, end to end in float32, as the reference suggests
#: Score names of NISQA's columns.
NISQA_NAMES = {"mos": "mos", "noi": "noisiness", "dis": "discontinuity", "col": "coloration", "loud": "loudness"}
NISQA_FILES = {
    "nisqa": ("nisqa-v2", "nisqa/nisqa.tar"),
    "nisqa_mos_only": ("nisqa-v2-mos-only", "nisqa/nisqa_mos_only.tar"),
    "nisqa_tts": ("nisqa-v1-tts", "nisqa/nisqa_tts.tar"),
    "nq_base1": ("nq-base1", "conferencingspeech2022/training_base_model_dff_vanilla_ep_050.tar"),
    "nq_base2": ("nq-base2", "conferencingspeech2022/baseline2_retraining_NISQA_full_ep_080.tar"),
}


def record(reference: dict) -> dict[str, dict]:
    """Recordings by checkpoint name: family, where its weights are, signals with digests, scores, versions."""
    found = {
        "distill-mos-v7": {
            "family": "distilled_sqa",
            "checkpoint": None,
            "scores": {name: {"mos": entry["mos"]} for name, entry in reference["distillmos_v7"].items() if "mos" in entry},
        }
    }
    for head in ("sqa-v2/mfcc_full", "sqa-v2/mfcc_subset", "sqa/mfcc_full", "sqa/mfcc_subset"):
        scores = {name: {"mos": mos} for name, mos in reference["xls_r_sqa_mfcc"][head].items() if isinstance(mos, float)}
        name = "xls-r-" + head.replace("/", "-").replace("_", "-")
        found[name] = {"family": "xlsr_sqa", "checkpoint": head, "scores": scores}
    for key, (name, file) in NISQA_FILES.items():
        scores = {
            signal: {NISQA_NAMES[short]: score for short, score in entry.items()} if isinstance(entry, dict) else {"mos": entry}
            for signal, entry in reference["nisqa"][key].items()
            if not (isinstance(entry, dict) and "error" in entry)  # beyond the original's limit of segments
        }
        found[name] = {"family": "nisqa", "checkpoint": f"shared/checkpoints/{file}", "scores": scores}
    for recording in found.values():
        known = {name: entry["sha256_int16"] for name, entry in reference["inputs"].items() if "sha256_int16" in entry}
        recording["scores"] = {name: scores for name, scores in recording["scores"].items() if name in known}
        recording["signals"] = {name: known[name] for name in recording["scores"]}
        recording["tolerance"] = TOLERANCE
        recording["recorded_with"] = reference["meta"]
    return found


def record_dnsmos(reference: dict) -> dict[str, dict]:
    """Recordings of both variants of DNSMOS, from the scores of the package speechmos 0.0.1.1."""
    signals = {name: entry for name, entry in reference.items() if "/" not in name}
    return {
        variant: {
            "family": "dnsmos",
            "checkpoint": variant,
            "scores": {
                name: {
                    **{score: (entry | own(entry))[score] for score in ("sig", "bak", "ovrl")},
                    "p808_mos": entry["p808_mos"],
                }
                for name, entry in signals.items()
            },
            "signals": {name: entry["sha256_int16"] for name, entry in signals.items()},
            "longest_seconds": 20.0,
            "tolerance": TOLERANCE,
            "recorded_with": {"speechmos": "0.0.1.1", "onnxruntime": "1.31.1", "librosa": "0.11.0", "numpy": "2.4.6"},
        }
        for variant, own in (("dnsmos", lambda entry: {}), ("dnsmos-personalized", lambda entry: entry["personalized"]))
    }


def main() -> None:
    reference, dnsmos = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    for name, recording in {**record(reference), **record_dnsmos(dnsmos)}.items():
        path = HERE / f"{name}.json"
        path.write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
        print(f"{path.name}: {len(recording['scores'])} signals")


if __name__ == "__main__":
    main()
