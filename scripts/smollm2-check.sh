#!/bin/sh
# Usage: smollm2-check.sh BUILD-FOLDER MODEL.gguf
# Converts the real model to f16 and compares it with the official implementation; then says what 8 and 4 bits cost on the same text.
set -eu
build=$1
gguf=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$build/pumice" convert "$gguf" -o "$tmp/f16.pumice" --dtype f16 2>/dev/null
"$build/tests/oracle/check_smollm2" "$tmp/f16.pumice" tests/golden/smollm2
head -c 6000 tests/golden/smollm2/text.txt >"$tmp/text"
check() {   # DTYPE KL-BOUND
    "$build/pumice" convert "$gguf" -o "$tmp/q.pumice" --dtype "$1" 2>/dev/null
    "$build/pumice" eval "$tmp/q.pumice" --against "$tmp/f16.pumice" --text "$tmp/text" --json 2>/dev/null >"$tmp/json"
    kl=$(sed -E 's/.*"kl": ([0-9.e-]+).*/\1/' "$tmp/json")
    top=$(sed -E 's/.*"top1": ([0-9.e-]+).*/\1/' "$tmp/json")
    echo "$1: KL $kl nats against f16 (bound $2), top-1 agreement $top"
    awk -v kl="$kl" -v bound="$2" 'BEGIN { exit !(kl < bound) }' || { echo "$1: FAIL"; exit 1; }
}
check w8a8 0.0075
check w4a16_g128 0.6
