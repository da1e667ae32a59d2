#!/usr/bin/env bash
# The wheel as a user gets it: built, and tried in environments of its own (core, [train], [all]) in another folder.
#   bash .ci/check_wheel.sh            all three; `bash .ci/check_wheel.sh core` tries one
# Needs uv on the path, and a network: for the packages, and once for the default model.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export HF_HOME=$place/home  # a machine on which nothing was fetched before
uv build --quiet --wheel --out-dir "$place/dist" "$root"
wheel=$(ls "$place"/dist/*.whl)
cp -r "$root/examples" "$place/examples"

must_fail() {  # must_fail WORDS COMMAND...: exit code 2, and these words
    local words=$1 code=0
    shift
    "$@" > out.txt 2>&1 || code=$?
    [ "$code" = 2 ] && grep -qF -- "$words" out.txt || { cat out.txt; echo "Expected exit code 2 and '$words' of: $*, got $code."; exit 1; }
}

for kind in ${@:-core train all}; do
    echo "== $kind"
    extra=$([ "$kind" = core ] || echo "[$kind]")
    python3 -m venv "$place/$kind"
    bin=$place/$kind/bin
    PATH=$bin:$PATH
    python -m pip install --quiet --constraint "$root/constraints.txt" torch
    # The CPU build of torch that is there now, and for the rest what CI installs.
    { python -m pip freeze | grep '^torch=='; grep -v '^torch==' "$root/constraints.txt"; } > "$place/constraints.txt"
    uv pip install --quiet --python "$place/$kind" --constraint "$place/constraints.txt" "hf-sqa$extra @ file://$wheel"
    mkdir "$place/work-$kind"
    cd "$place/work-$kind"
    cp -r ../examples .
    hf-sqa --version
    hf-sqa info
    python - << 'PYTHON'
import subprocess, typer
from hf_sqa.cli import app

def commands(command, words=()):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))

for words in commands(typer.main.get_command(app)):
    subprocess.run(["hf-sqa", *words, "--help"], check=True, stdout=subprocess.DEVNULL)
PYTHON
    python - "$root/README.md" << 'PYTHON'
import re, sys
for block in re.findall(r"^```python\n(.*?)^```", open(sys.argv[1], encoding="utf-8").read(), re.M | re.S):
    exec(block, {"__name__": "readme"})
PYTHON
    hf-sqa score examples --output scores.csv
    hf-sqa score examples/clean.flac --plot quality.png
    hf-sqa degrade examples/clean.flac worse.wav --snr-db 10
    hf-sqa models --no-hub > models.txt
    hf-sqa corpus list > corpora.txt
    hf-sqa convert --list > convert.txt
    hf-sqa train --list > lists.txt
    hf-sqa distill --list >> lists.txt
    hf-sqa study --list >> lists.txt
    for name in w2v-ger distilled_sqa-s mtq_losses; do grep -q "^$name " lists.txt; done
    if [ "$kind" = core ]; then
        must_fail "pip install 'hf-sqa[train]'" hf-sqa train w2v-ger
        must_fail "pip install 'hf-sqa[corpus]'" hf-sqa score examples --output scored/
        continue
    fi
    hf-sqa score examples --output scored/ --model distilled-sqa-xs
    hf-sqa report scored/
    hf-sqa filter scored/ --min-mos 2 --write kept.csv
    hf-sqa train w2v-ger --dry-run > recipe.txt
    hf-sqa distill distilled_sqa-s --dry-run > distillation.txt
    printf 'audio,mos,talker\n' > ratings.csv
    for file in examples/*.flac; do echo "$file,$((RANDOM % 4 + 1)),$file" >> ratings.csv; done
    hf-sqa evaluate ratings.csv --model distilled-sqa-xs --num-draws 100
    [ "$kind" = all ] || { must_fail "pip install 'hf-sqa[onnx]'" hf-sqa export onnx graph --model distilled-sqa-xs; continue; }
    hf-sqa export onnx graph --model distilled-sqa-xs
    hf-sqa score examples --model graph
done
echo "The wheel works."
