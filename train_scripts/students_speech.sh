#!/bin/sh
# Recorded speech for the students, from Debian packages: the bench corpus, and 48 further talkers in 30 languages.
#   sh train_scripts/students_speech.sh speech      makes speech/bench and speech/further
#   sh train_scripts/students_speech.sh speech more     without short words (below 9 kB), and with ten talkers of whole phrases
# Then: hf-sqa distill distilled_sqa-s speech.bench=speech/bench speech.folder=speech/further
set -eu
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
more=${2:-}
mkdir -p "$1/packages" "$1/bench" "$1/unpacked" "$1/further"
cd "$1"
(cd packages && apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-es-g722 asterisk-core-sounds-fr-g722 \
  asterisk-core-sounds-it-g722 asterisk-core-sounds-ru-g722 fillets-ng-data-cs klettres-data ktuberling-data fillets-ng-data-nl)
for package in packages/asterisk-*.deb packages/fillets-ng-data-cs_*.deb; do dpkg-deb -x "$package" bench; done
for package in packages/klettres-*.deb packages/ktuberling-*.deb packages/fillets-ng-data-nl_*.deb; do dpkg-deb -x "$package" unpacked; done
if [ -n "$more" ]; then
  (cd packages && apt-get download tuxpaint-stamps-default warzone2100-data)
  for package in packages/tuxpaint-*.deb packages/warzone2100-*.deb; do dpkg-deb -x "$package" unpacked; done
  mkdir -p further/warzone
  unzip -qjo unpacked/usr/share/games/warzone2100/base.wz 'audio/tutorial/*.ogg' 'audio/extra/*.ogg' 'audio/memressp/*.ogg' -d further/warzone || [ $? -eq 11 ]
  find further/warzone -size -16k -delete
fi
# A folder for each talker. The words of both games for children are read by one person in each language.
cd unpacked/usr/share
find klettres ktuberling/sounds games/fillets-ng/sound ${more:+tuxpaint/stamps} \( -name '*.ogg' -o -name '*.wav' -o -name '*.opus' \) \
  ${more:+-size +9k} | while read -r file; do
  case "$file" in
    klettres/*) talker="klettres-$(echo "$file" | cut -d/ -f2)" ;;
    ktuberling/*) talker="ktuberling-$(echo "$file" | cut -d/ -f3)" ;;
    *-m-*) talker="fillets-nl-m" ;;
    *-v-*) talker="fillets-nl-v" ;;
    */*_desc_*.ogg) talker="tuxpaint-$(echo "${file##*_desc_}" | cut -d. -f1)" ;;
    *) continue ;;
  esac
  mkdir -p "../../../further/$talker"
  cp "$file" "../../../further/$talker/$(echo "$file" | tr / -)"
done
cd ../../..
rm -r unpacked
echo "$(find further -type f | wc -l) recordings of $(ls further | wc -l) talkers in $1/further; phrases of the bench corpus in $1/bench"
