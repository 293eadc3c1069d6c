#!/bin/sh
# Usage: compare-arm.sh X86-PROGRAM ARM-PROGRAM
# The promise of the house: the same file and prompt give the same logits, bit for bit, on both architectures. Files of several dtypes are made with `synth tiny`
# and the story model is taken as it is; the ARM program runs under qemu, on CPUs with and without the dot-product instructions.
set -eu
x86=$1
arm=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
ids="1 5 9 200 77 3 3 42 17 250 8 8 8 121 90 66 13"
fail=0
compare() {   # FILE LABEL OPTIONS...
    file=$1 label=$2
    shift 2
    want=$("$x86" logits "$file" --ids "$ids" --hash "$@")
    for cpu in cortex-a53 cortex-a72 cortex-a76; do
        got=$(timeout 300 qemu-aarch64 -cpu "$cpu" "$arm" logits "$file" --ids "$ids" --hash --threads 2 "$@")
        if [ "$got" = "$want" ]; then echo "ok   $label $cpu $got"; else echo "FAIL $label $cpu: $got, x86 has $want"; fail=1; fi
    done
}
for dtype in f16 bf16 w8a8 w8a8_g32 w8a8_g128 w4a16 w4a16_g32 w4a16_g128; do
    "$x86" synth tiny --dtype "$dtype" -o "$tmp/$dtype.pumice" >/dev/null
    compare "$tmp/$dtype.pumice" "$dtype"
done
for dtype in f16 w8a8 w4a16_g32; do
    "$x86" synth tiny-rwkv7 --dtype "$dtype" -o "$tmp/rwkv7.pumice" >/dev/null
    compare "$tmp/rwkv7.pumice" "rwkv7 $dtype"
done
compare "$tmp/w8a8.pumice" "w8a8 kv=int8" --kv int8
compare "$tmp/f16.pumice" "f16 kv=f32" --kv f32
for dtype in w8a8 w4a16_g128; do
    "$x86" synth tiny-mla --dtype "$dtype" -o "$tmp/mla-$dtype.pumice" >/dev/null
    compare "$tmp/mla-$dtype.pumice" "mla $dtype"
    compare "$tmp/mla-$dtype.pumice" "mla $dtype kv=int8" --kv int8
done
[ -e models/story.pumice ] && compare models/story.pumice story
exit $fail
