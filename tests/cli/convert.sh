#!/bin/sh
# pumice convert, synth and inspect: files appear whole or not at all, and say what is in them.
. "$(dirname "$0")/lib.sh"
"$CHECKPOINT" "$T/ck" || exit 1
dtypes="f16 bf16 w8a8 w8a8_g32 w8a8_g64 w8a8_g128 w8a8_g256 w8a8_g512 w4a16 w4a16_g32 w4a16_g64 w4a16_g128"

# ---- synth

for t in $dtypes; do
    run synth tiny --dtype $t -o "$T/$t.pumice"; rc 0; no_out; err_has "$T/$t.pumice: "; err_has " MiB, written in "
    alone "$T/$t.pumice"
    run inspect "$T/$t.pumice" --verify; rc 0; no_err; out_has "tiny, $t, "; out_has "all hashes match"; is "$(sed -n 2p "$T/out")" "made from synth"
done
run synth tiny -o "$T/default.pumice"; rc 0; same "$T/default.pumice" "$T/w8a8.pumice"
run synth tiny -o "$T/default.pumice" --seed 7; rc 0
n=$((n + 1)); cmp -s "$T/default.pumice" "$T/w8a8.pumice" && wrong "--seed changes nothing"
run synth tiny -o "$T/off.pumice" --rotate off; rc 0; run inspect "$T/off.pumice"
n=$((n + 1)); grep -q rotated "$T/out" && wrong "--rotate off rotates"
run synth tiny --dtype w4a16_g32 -o "$T/same.pumice" --head same; rc 0; run inspect "$T/same.pumice"; out_has "head         w4 [515 x 96] group 32"
run inspect "$T/w4a16_g32.pumice"; out_has "head         w8 [515 x 96]"
# The names in --help are those that the library knows.
run synth tiny-options -o "$T/options.pumice"; rc 0; run inspect "$T/options.pumice"
out_has "rope 0: 12 values of a head, long; sessions with a context above 64 use the long form"; out_has "window of 40"; out_has "attn.o       w8 [96 x 144] rotated by 16 + bias"
out_has "ffn.down     w8 [96 x 200] + bias"
fails 2 'model "frob" is not known; known are tiny, smollm2-135m, ' synth frob -o "$T/x"
known=$(sed 's/.*: \([0-9]*\) in all.*/\1/' "$T/err")
run synth --help
names=$(tr '\n' ' ' <"$T/out" | sed 's/.*NAME is //; s/\. .*//; s/,//g; s/ or / /; s/  */ /g')
is "$(echo $names | wc -w | tr -d ' ')" "$known"
# shellcheck disable=SC2086
fails 1 "cannot make /proc/none: " bench --all $names --dir /proc/none     # looks at the names first
fails 1 "cannot create $T/none/x: No such file or directory" synth tiny -o "$T/none/x"
fails 1 "cannot create /proc/tiny.pumice: " synth tiny -o /proc/tiny.pumice
fails 1 "it is a folder" synth tiny -o "$T"
fails 1 "cannot write /dev/full: it is not a regular file" synth tiny -o /dev/full
fails 2 "the output file has no name" synth tiny -o ""
gone "$T/x"

# ---- convert

for t in $dtypes; do
    run convert "$T/ck" -o "$T/ck-$t.pumice" --dtype $t --name Small --quality fast; rc 0; no_out
    run inspect "$T/ck-$t.pumice" --verify; rc 0; out_has "Small, $t, "; out_has "all hashes match"
    run run "$T/ck-$t.pumice" hello -n 3 --json; rc 0; no_err
done
run convert "$T/ck" -o "$T/a.pumice" --threads 1; run convert "$T/ck" -o "$T/b.pumice" --threads 3; same "$T/a.pumice" "$T/b.pumice"
run inspect "$T/a.pumice"; out_has ": ck, w8a8"      # named after the source
run inspect "$T/a.pumice" --json; out_has '"quality": "best"'; out_has '"text": "built-in"'
run convert "$T/ck" -o "$T/b.pumice" --quality best; same "$T/a.pumice" "$T/b.pumice"
run convert "$T/ck" -o "$T/b.pumice" --quality fast; run inspect "$T/b.pumice" --json; out_has '"quality": "fast"'
n=$((n + 1)); cmp -s "$T/a.pumice" "$T/b.pumice" && wrong "--quality changes nothing"
# Where there is nothing to choose, the default says so in a line, unless the type leaves no doubt; asked for, it is an error.
run convert "$T/ck" -o "$T/b.pumice" --dtype f16; rc 0; is "$(wc -l <"$T/err")" 1
fails 2 'quality "best" is not possible: f16 is not rounded to integers' convert "$T/ck" -o "$T/x" --dtype f16 --quality best; gone "$T/x"
fails 2 'quality "best" is not possible: f16 is not rounded to integers' convert "$T/ck" -o "$T/x" --dtype f16 --calibrate "$story"
q4=$SOURCE/tests/fuzz/corpus/gguf/seed-llama-q4_0
run convert "$q4" -o "$T/b.pumice" --dtype w4a16_g32; rc 0; err_has "quality fast: weights that are quantized already are taken over as they are"
fails 2 "quality \"best\" is not possible: weights that are quantized already are taken over as they are" convert "$q4" -o "$T/x" --dtype w4a16_g32 --quality best
run convert "$q4" -o "$T/c.pumice" --dtype w4a16_g32 --quality fast; rc 0; is "$(wc -l <"$T/err")" 1; same "$T/b.pumice" "$T/c.pumice"

# ---- calibration

seq 1 2000 | sed 's/.*/The quick brown fox number & jumps over the lazy dog./' >"$T/text"
run convert "$T/ck" -o "$T/b.pumice" --calibrate "$T/text" --dtype w4a16_g32 --rotate off --head same; rc 0; no_out
run convert "$T/ck" -o "$T/c.pumice" --calibrate "$T/text" --dtype w4a16_g32 --rotate off --head same --threads 3; same "$T/b.pumice" "$T/c.pumice"
run inspect "$T/b.pumice" --json; out_has '"text": "given"'
run convert "$T/ck" -o "$T/c.pumice" --dtype w4a16_g32 --rotate off --head same
n=$((n + 1)); cmp -s "$T/b.pumice" "$T/c.pumice" && wrong "--calibrate changes nothing"
seq 1 200 | sed 's/.*/{"messages": [{"role": "user", "content": "What is & and one?"}, {"role": "assistant", "content": "One more than &."}]}/' >"$T/chats"
run convert "$T/ck" -o "$T/c.pumice" --calibrate "$T/chats"; rc 0; no_out
sed 's/"messages.*/"text": "Nothing but words, words and again words, and so on for a while."}/' "$T/chats" >"$T/texts"
run convert "$T/ck" -o "$T/c.pumice" --calibrate "$T/texts"; rc 0; no_out
(cat "$T/chats"; printf '\n  \t \r\n\n'; head -3 "$T/chats") >"$T/blank"      # lines of nothing between lines
run convert "$T/ck" -o "$T/c.pumice" --calibrate "$T/blank"; rc 0; no_out
(printf '\n \n'; cat "$T/chats") >"$T/blank"
run convert "$T/ck" -o "$T/c.pumice" --calibrate "$T/blank"; rc 0; no_out
bad() { fails 3 "calibration text $T/bad: $1" convert "$T/ck" -o "$T/x" --calibrate "$T/bad"; gone "$T/x"; alone "$T/x"; }
: >"$T/bad"; bad "it is empty"
printf '\n \n\t\n' >"$T/bad"; bad "it has "
echo "the quick brown fox jumps over the lazy dog" >"$T/bad"; bad "it has "
head -c 60000 "$story" >"$T/bad"; bad "it holds NUL bytes: this is not a text"
head -c 60000 "$story" | tr -d '\0' >"$T/bad"; bad ""; err_has "bytes are not UTF-8"
(cat "$T/chats"; echo '{"prompt": "x"}') >"$T/bad"; bad "line 201"; err_has 'has neither "messages" (an array) nor "text" (a string)'
(cat "$T/chats"; echo '{"messages": [{"content": "who?"}]}') >"$T/bad"; bad "line 201"; err_has "messages[0] has no \"role\""
(cat "$T/chats"; echo '{"messages"') >"$T/bad"; bad "line 201"
seq 1 3000 | sed 's/.*/Ελληνικά γράμματα/' >"$T/bad"; bad "its "; err_has "the model's tokenizer does not know this script"
fails 3 "cannot open $T/none" convert "$T/ck" -o "$T/x" --calibrate "$T/none"
run convert "$T/ck" -o "$T/b.pumice" --dtype w4a16 --budget 11; rc 0; no_out; err_has "budget 11: "; err_has " by the error in the residual stream, "
run inspect "$T/b.pumice"; out_has "budget of 11 bits per weight, "; out_has "layers."; run inspect "$T/b.pumice" --json; out_has '"given": 11.0'
run convert "$T/ck" -o "$T/b.pumice" --dtype w4a16 --budget 11 --quality fast; rc 0; err_has "by the error of the weights"
fails 2 "budget 16: with w4a16, the linears of the layers can have from " convert "$T/ck" -o "$T/x" --dtype w4a16 --budget 16; gone "$T/x"
fails 2 "--budget" convert "$T/ck" -o "$T/x" --budget 0
fails 2 "--calibrate is of no use with --quality fast" convert "$T/ck" -o "$T/x" --calibrate "$T/text" --quality fast
fails 2 '--quality must be fast or best, not "good"' convert "$T/ck" -o "$T/x" --quality good
run convert "$T/ck" -o "$T/vocab.pumice" --vocab-only; rc 0

# ---- a chat template that cannot be used

cp "$T/ck/tokenizer_config.json" "$T/good.json"
sed 's/"chat_template": ".*/"chat_template": "a\\n{% for m in messages %}"}/' "$T/good.json" >"$T/ck/tokenizer_config.json"
says="line 2: syntax error at byte 2"
run convert "$T/ck" -o "$T/broken.pumice" --quality fast; rc 0; no_out
err_has "the chat template does not parse: $says"; err_has '; "run --raw" does without it, or mend chat_template and convert again'
is "$(wc -l <"$T/err")" 2
run inspect "$T/broken.pumice"; rc 0; out_has "the chat template does not parse: $says"
run inspect "$T/broken.pumice" --json; rc 0; out_has "\"chat_template_error\": \"$says"
fails 3 "pumice: chat template: $says" run "$T/broken.pumice" hi
run run "$T/broken.pumice" --raw hi -n 3; rc 0; no_err
echo hi >"$T/q"; in=$T/q; fails 3 "pumice: chat template: $says" chat "$T/broken.pumice"; in=/dev/null
sed 's/"chat_template": ".*/"chat_template": "{{ raise_exception('"'no'"') }}"}/' "$T/good.json" >"$T/ck/tokenizer_config.json"
run convert "$T/ck" -o "$T/broken.pumice" --quality fast; rc 0; is "$(wc -l <"$T/err")" 1
fails 3 "pumice: chat template: the template refuses: no" run "$T/broken.pumice" hi
cp "$T/good.json" "$T/ck/tokenizer_config.json"
(head -c 1048577 /dev/zero | tr '\0' a) >"$T/ck/chat_template.jinja"
fails 3 "chat_template.jinja has 1048577 bytes; the limit is 1048576" convert "$T/ck" -o "$T/x"
rm "$T/ck/chat_template.jinja"
run inspect "$T/vocab.pumice"; rc 0; n=$((n + 1)); grep -q "does not parse" "$T/out" && wrong "a good template is called broken"
run inspect "$T/vocab.pumice" --verify; rc 0; no_err; out_has "260 ids"
n=$((n + 1)); grep -q "layers of" "$T/out" && wrong "layers in a vocabulary"
# A file that is someone else's under the name of the finished layers is left alone.
echo precious >"$T/d.pumice.partial"
run convert "$T/ck" -o "$T/d.pumice"; rc 0; is "$(cat "$T/d.pumice.partial")" precious; same "$T/a.pumice" "$T/d.pumice"
rm "$T/d.pumice.partial"
rm "$T/ck/model.safetensors"
run convert "$T/ck" -o "$T/vocab2.pumice" --vocab-only; rc 0
echo '[{"role": "user", "content": "Hi"}]' >"$T/m.json"
run template "$T/vocab2.pumice" --messages "$T/m.json"; rc 0; out "<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant"

# What is quantized already is taken as it is, or anew.
ready=$SOURCE/tests/golden/ready
run convert "$ready/gptq" -o "$T/r.pumice"; rc 0; no_out
run inspect "$T/r.pumice" --verify; rc 0; out_has 'made from gptq "gptq"; 4 linears hold its quantized weights without loss'; out_has "all hashes match"
run convert "$ready/gptq" -o "$T/s.pumice" --head w8; rc 0
n=$((n + 1)); [ "$(wc -c <"$T/s.pumice")" -lt "$(wc -c <"$T/r.pumice")" ] || wrong "--head w8 makes nothing smaller"
run convert "$ready/gptq" -o "$T/r.pumice" --requantize --dtype w4a16_g32 --rotate on; rc 0
run inspect "$T/r.pumice"; rc 0; out_has "w4a16_g32"
n=$((n + 1)); grep -q "without loss" "$T/out" && wrong "requantized, and yet without loss"
rm "$T/r.pumice"
fails 3 "--requantize dequantizes and quantizes anew" convert "$ready/gptq" -o "$T/r.pumice" --dtype f16
fails 3 "--requantize dequantizes and quantizes anew" convert "$ready/gptq-act-order" -o "$T/r.pumice"
gone "$T/r.pumice"; alone "$T/r.pumice"

# What cannot be converted is said, and leaves nothing.
keep() { echo precious >"$T/kept.pumice"; fails "$@" -o "$T/kept.pumice"; is "$(cat "$T/kept.pumice")" precious; alone "$T/kept.pumice"; }
keep 3 "model.safetensors" convert "$T/ck"
keep 3 "$T/none does not exist; give a checkpoint folder or a GGUF file" convert "$T/none"
keep 3 "neither a checkpoint folder nor a GGUF file" convert "$story"
mkdir "$T/bare"
keep 3 "$T/bare has no config.json" convert "$T/bare"
"$CHECKPOINT" "$T/nan" nan
keep 3 'tensor "model.layers.0.self_attn.q_proj.weight" holds NaN at row 0, column 5' convert "$T/nan"
"$CHECKPOINT" "$T/ck"
sed -i 's/Qwen2ForCausalLM/FrobForCausalLM/' "$T/ck/config.json"
keep 3 "FrobForCausalLM" convert "$T/ck"
"$CHECKPOINT" "$T/ck"
keep 2 '--dtype must be f16, ' convert "$T/ck" --dtype w2
printf 'GGUF\003\000\000\000' >"$T/x.gguf"
keep 3 "GGUF" convert "$T/x.gguf"
fails 2 "is the source itself" convert "$T/x.gguf" -o "$T/x.gguf"
is "$(wc -c <"$T/x.gguf")" 8
fails 2 "is the source itself" convert "$T/x.gguf" -o "$T/bare/../x.gguf"

# A full disk, for which a limit on the size of files stands: nothing new under the name, nothing beside it.
cmd="pumice convert with a limit of 8 KiB a file"
echo precious >"$T/kept.pumice"
rc=0
(ulimit -f 16; exec "$PUMICE" convert "$T/ck" -o "$T/kept.pumice" --quality fast >"$T/out" 2>"$T/err" </dev/null) || rc=$?
rc 1; no_out; err_has "pumice: cannot write $T/kept.pumice: File too large"
is "$(cat "$T/kept.pumice")" precious
alone "$T/kept.pumice"

# A link stays a link.
ln -s "$T/target.pumice" "$T/link.pumice"
: >"$T/target.pumice"
run convert "$T/ck" -o "$T/link.pumice"; rc 0
n=$((n + 1)); [ -L "$T/link.pumice" ] || wrong "the link is gone"
run inspect "$T/target.pumice"; rc 0

# The progress bar is for terminals; Ctrl-C there leaves nothing behind.
run convert "$T/ck" -o "$T/c.pumice"; is "$(wc -l <"$T/err")" 1
"$CHECKPOINT" "$T/huge" huge
printf 'expect convert [\nexpect %%\nsignal 2\nexpect pumice: interrupted\nexit 130\n' >"$T/int.steps"
drive int convert "$T/huge" -o "$T/huge.pumice" --quality fast
gone "$T/huge.pumice"; alone "$T/huge.pumice"
sed -i 's/signal 2/signal 15/; s/130/143/' "$T/int.steps"
drive int convert "$T/huge" -o "$T/huge.pumice" --quality fast
gone "$T/huge.pumice"; alone "$T/huge.pumice"
sed -i 's/^expect pumice.*//; s/signal 15/signal 9/; s/143/137/' "$T/int.steps"
drive int convert "$T/huge" -o "$T/huge.pumice" --quality fast
gone "$T/huge.pumice"
# What a killed one left goes with the next for the same output; what is not a dead process's, or is locked, stays.
set -- "$T/huge.pumice".tmp-*; left=$1; there "$left"
(cd "$T" && touch "other.pumice.tmp-${left##*-}" "huge.pumice.tmp-$$" huge.pumice.tmp-12x "huge.pumice2.tmp-${left##*-}")
if command -v flock >/dev/null; then flock -n "$left" "$PUMICE" synth tiny -o "$T/huge.pumice" 2>/dev/null; there "$left"; fi
run synth tiny -o "$T/huge.pumice"; rc 0; gone "$left"
for kept in "other.pumice.tmp-${left##*-}" "huge.pumice.tmp-$$" huge.pumice.tmp-12x "huge.pumice2.tmp-${left##*-}"; do there "$T/$kept"; rm -f "$T/$kept"; done
(cd "$T" && touch "huge.pumice.tmp-${left##*-}" && "$PUMICE" synth tiny -o huge.pumice 2>/dev/null); gone "$left"      # and where the output has no folder in its name

# ---- inspect

m=$T/w8a8.pumice
run inspect "$m"; rc 0; no_err
for part in "byte-level BPE, 515 ids; chat template: yes" "3 layers of width 96, rms norms, context 512" "layer 0 and 2 like it:" "rope 0: 24 values of a head, fixed" "6 heads, 2 KV heads of 24, q and k normed" "ffn.down     w8 [96 x 384]" "memory, MiB:" "gemm_w8="; do out_has "$part"; done
run inspect "$m" --isa scalar; out_has "gemm_w8=scalar"
run inspect "$m" --json; rc 0; no_err
for key in file_bytes model tokenizer chat_template parameters memory tensors provenance kernels; do out_has "\"$key\": "; done
n=$((n + 1)); grep -q verified "$T/out" && wrong "verified without --verify"
run inspect "$m" --json --verify; rc 0; out_has '"verified": true'
# One flipped bit anywhere in the tensors is found, and the tensor is named.
size=$(wc -c <"$m")
for at in $((size - 1)) $((size / 2)) $((size - 100000)) $((size - 400000)); do
    cp "$m" "$T/flip.pumice"
    byte=$(od -An -tu1 -j "$at" -N 1 "$m")
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((byte ^ 16)))" | dd of="$T/flip.pumice" bs=1 seek="$at" conv=notrunc 2>/dev/null
    n=$((n + 1)); cmp -s "$m" "$T/flip.pumice" && wrong "nothing was flipped"
    fails 3 "is damaged: its hash is " inspect "$T/flip.pumice" --verify
    fails 3 'tensor "' inspect "$T/flip.pumice" --verify --json
done
# A file may not drive the terminal.
run convert "$T/ck" -o "$T/esc.pumice" --name "$(printf 'red\033[31m')"; rc 0
run inspect "$T/esc.pumice"; rc 0; out_has "red?[31m, w8a8"
finish
