#!/bin/sh
# A student in two minutes on two cores, from a fresh clone: five talkers of Debian packages, 256 windows, the smallest student.
#   sh train_scripts/two_minutes.sh two-minutes
set -eu
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
recipe="$(dirname "$0")/recipes/distilled_sqa-xxs.yaml"
mkdir -p "$1/packages" "$1/speech"
(cd "$1/packages" && apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-es-g722 asterisk-core-sounds-fr-g722 \
  asterisk-core-sounds-it-g722 asterisk-core-sounds-ru-g722 fillets-ng-data-cs)
for package in "$1"/packages/*.deb; do dpkg-deb -x "$package" "$1/speech"; done
hf-sqa distill "$recipe" "speech.bench=$1/speech" speech.folder=null "labels.leave_out=[]" "labels.folder=$1/labels" labels.num_windows=256 \
  degradations.bench=0 training.num_train_epochs=8 "output_dir=$1/student"
