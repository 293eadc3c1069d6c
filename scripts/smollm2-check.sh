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
text=tests/data/heldout.txt
check() {   # DTYPE QUALITY KL-BOUND TOP-1-BOUND
    "$build/pumice" convert "$gguf" -o "$tmp/q.pumice" --dtype "$1" --quality "$2" 2>/dev/null
    "$build/pumice" eval "$tmp/q.pumice" --against "$tmp/f16.pumice" --text "$text" --json 2>/dev/null >"$tmp/json"
    kl=$(sed -E 's/.*"kl": ([0-9.e-]+).*/\1/' "$tmp/json")
    top=$(sed -E 's/.*"top1": ([0-9.e-]+).*/\1/' "$tmp/json")
    echo "$1 $2: KL $kl nats against f16 (bound $3), top-1 agreement $top (bound $4)"
    awk -v kl="$kl" -v bound="$3" -v top="$top" -v least="$4" 'BEGIN { exit !(kl < bound && top > least) }' || { echo "$1: FAIL"; exit 1; }
}
check w8a8 fast 0.0075 0.94
check w4a16_g128 fast 0.6 0.55
# What --quality best reaches takes minutes each: make quality.
