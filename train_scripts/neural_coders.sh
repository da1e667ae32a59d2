#!/bin/sh
# What the degradations `coders` need beside the packages of the system: Lyra's networks, and a libopus with neural networks.
#   sh train_scripts/neural_coders.sh coders && . coders/environment
# Needs curl and dpkg-deb; pip install hf-sqa[lyra,vocoders]; apt-get install libopencore-amrnb0 libopencore-amrwb0
# libvo-amrwbenc0 libspeex1.
set -eu
[ $# -eq 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1/lyra"
cd "$1"
for network in soundstream_encoder quantizer lyragan; do
  [ -s "lyra/$network.tflite" ] || curl -fsSL -o "lyra/$network.tflite" \
    "https://raw.githubusercontent.com/google/lyra/47698da/lyra/model_coeffs/$network.tflite"
done
if [ ! -e opus/usr ]; then
  curl -fsSLO "http://deb.debian.org/debian/pool/main/o/opus/libopus0_1.5.2-2_$(dpkg --print-architecture).deb"
  dpkg-deb -x libopus0_*.deb opus
fi
cat > environment <<EOF
export HF_SQA_LYRA="$PWD/lyra" HF_SQA_LIBOPUS="$(find "$PWD/opus" -name 'libopus.so.0')"
EOF
