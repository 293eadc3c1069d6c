#!/bin/sh
# Usage: quality.sh PROGRAM MODEL.gguf [FOLDER]
# Converts the real model to every dtype, the best way and the fast one, and measures each against its own f16 on text that nothing was tuned with. FOLDER keeps the files; those that are
# there already are not made again.
set -eu
pumice=$1
gguf=$2
folder=${3:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
text=tests/data/heldout.txt
dtypes=${DTYPES:-"w8a8 w8a8_g128 w8a8_g32 w4a16 w4a16_g128 w4a16_g64 w4a16_g32"}
make_file() {   # NAME DTYPE QUALITY
    [ -f "$folder/$1.pumice" ] || "$pumice" convert "$gguf" -o "$folder/$1.pumice" --dtype "$2" --quality "$3"
}
make_file f16 f16 fast
for quality in best fast; do
    files=
    for t in $dtypes; do
        make_file "$t-$quality" "$t" "$quality"
        files="$files $folder/$t-$quality.pumice"
    done
    echo "--quality $quality"
    # shellcheck disable=SC2086
    "$pumice" eval $files --text "$text" --against "$folder/f16.pumice"
done
echo "int8 KV cache, weights in f16"
"$pumice" eval "$folder/f16.pumice" --kv int8 --text "$text" --against "$folder/f16.pumice"
