#!/bin/sh
# The student m on coders and synthetic talkers with one GPU: windows made by all cores, labelled and trained on the GPU.
#   sh train_scripts/one_gpu.sh speech coders 200000 student-m       after students_speech.sh, students_voices.py, neural_coders.sh
# Making a window takes a core about 0.2 s, so 200,000 take 16 cores three quarters of an hour; everything resumes where it stopped.
# On a processor: NUM_WORKERS=0 sh train_scripts/one_gpu.sh speech coders 640 student-m training.per_device_train_batch_size=32
set -eu
[ $# -ge 4 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
speech=$1 coders=$2 windows=$3 output=$4
shift 4
[ ! -f "$coders/environment" ] || . "$coders/environment"
workers=${NUM_WORKERS:-$(nproc)}
recipe="$(dirname "$0")/recipes/distilled_sqa-m-coders.yaml"
python "$(dirname "$0")/students_ladders.py" --bench "$speech/bench" --folder "$speech/further" --output "$output-ladders" \
  --num-sentences "$((windows / 200 < 400 ? windows / 200 + 1 : 400))"
measure=--test
[ "$windows" -ge 640 ] || measure= # too few for windows of the test talkers
exec hf-sqa distill "$recipe" student.checkpoint=distilled-sqa-m "speech.bench=$speech/bench" "speech.folder=$speech/further" \
  "labels.folder=$output-labels" "labels.num_windows=$windows" "labels.num_workers=$workers" "order.table=$output-ladders/order.csv" \
  training.per_device_train_batch_size=128 "training.dataloader_num_workers=$((workers / 2))" "output_dir=$output" $measure "$@"
