#!/bin/sh
# pumice eval and bench: their forms, and that the numbers can be true.
. "$(dirname "$0")/lib.sh"
for t in f16 w8a8 w4a16_g128; do tiny $t; done
holds() { n=$((n + 1)); awk "BEGIN { exit !($1) }" 2>/dev/null || wrong "does not hold: $1"; }
value() { sed -n "s/.*\"$1\": \([-0-9.e+]*\).*/\1/p" "$T/out"; }

# ---- eval

cat >"$T/text" <<'Q'
Once upon a time there was a king who had three daughters, and the youngest of them was so beautiful that the sun itself, which has seen so much, was astonished
whenever it shone in her face. Close by the king's castle lay a great dark forest, and under an old lime-tree in the forest was a well.
Q
run eval "$story" --text "$T/text"; rc 0; no_err
n=$((n + 1)); grep -qE '^Pumice story model w8a8: perplexity [0-9.]+ over [0-9]+ positions in windows of 512$' "$T/out" || wrong "reads otherwise"
run eval "$story" --text "$T/text" --json; rc 0; is "$(wc -l <"$T/out")" 1
for key in model dtype ctx positions perplexity nll; do out_has "\"$key\": "; done
ppl=$(value perplexity)
holds "$ppl > 2 && $ppl < 100"
holds "log($ppl) - $(value nll) < 0.001 && $(value nll) - log($ppl) < 0.001"
positions=$(value positions)
run tokenize "$story" --file "$T/text"; is "$positions" $(($(wc -w <"$T/out") - 1))
cp "$T/text" "$T/in"
in=$T/in
run eval "$story" --text - --json; is "$(value perplexity)" "$ppl"
in=/dev/null
run eval "$story" --text "$T/text" --json --threads 3 --isa scalar; is "$(value perplexity)" "$ppl"
run eval "$story" --text "$T/text" --json --ctx 16; holds "$(value perplexity) > $ppl"; is "$(value ctx)" 16
run eval "$story" --text "$T/text" --json --kv f32; rc 0
# Against itself there is no distance; against another there is.
run eval "$story" --text "$T/text" --against "$story" --json; rc 0; out_has '"kl": 0, "kl_max": 0, "top1": 1, "top5": 1}'; is "$(value against_perplexity)" "$ppl"; out_has '"against_dtype": "w8a8"'
run eval "$story" --text "$T/text" --against "$story"; out_has "KL 0.00000 nats (largest 0.000), top-1 agreement 100.00 %, in the top 5 100.00 %"
run eval "$T/w8a8.pumice" --text "$T/text" --against "$T/f16.pumice" --json; rc 0; holds "$(value kl) > 0 && $(value top1) < 1 && $(value top5) >= $(value top1) && $(value kl_max) >= $(value kl)"
kl=$(value kl)
# Several files make a table; each is what it is alone.
run eval "$T/w8a8.pumice" "$T/w4a16_g128.pumice" --text "$T/text" --against "$T/f16.pumice"; rc 0; no_err
is "$(wc -l <"$T/out")" 4
is "$(sed -n 2p "$T/out")" "dtype             bits  perplexity         KL    largest  top-1 %  top-5 %"
n=$((n + 1)); grep -qE '^tiny: [0-9]+ positions in windows of 512, against f16 \(perplexity [0-9.]+\)$' "$T/out" || wrong "the first line reads otherwise"
n=$((n + 1)); grep -qE '^w8a8 +10\.[0-9]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+$' "$T/out" || wrong "the row reads otherwise"
run eval "$T/w8a8.pumice" "$T/w4a16_g128.pumice" --text "$T/text" --against "$T/f16.pumice" --json; rc 0
is "$(head -c 1 "$T/out")$(tail -n 1 "$T/out")" "[]"
is "$(sed -n 's/.*"dtype": "w8a8".*"kl": \([^,]*\),.*/\1/p' "$T/out")" "$kl"
run eval "$T/w8a8.pumice" "$T/f16.pumice" --text "$T/text"; rc 0; is "$(sed -n 2p "$T/out")" "dtype             bits  perplexity"
# The error of each layer: none against itself, some against another.
run eval "$T/f16.pumice" --text "$T/text" --against "$T/f16.pumice" --layers --json; rc 0; out_has '"layers": [0, 0, 0]}'
run eval "$T/w8a8.pumice" --text "$T/text" --against "$T/f16.pumice" --layers; rc 0
is "$(sed -n 4,5p "$T/out")" "relative error after each layer
layer           w8a8"
is "$(grep -cE '^[012]  +[0-9]+\.[0-9]{5}$' "$T/out")" 3
run eval "$T/f16.pumice" --text "$T/text" --against "$T/f16.pumice" --kv int8 --json; rc 0; holds "$(value kl) > 0 && $(value kl) < 0.1"
run eval "$T/f16.pumice" --text "$T/text" --against "$T/f16.pumice" --kv f32 --json; rc 0; is "$(value kl)" 0
fails 2 "give --against REF" eval "$T/w8a8.pumice" --text "$T/text" --layers
fails 3 "their vocabularies have 3072 and 515 ids" eval "$story" --text "$T/text" --against "$T/f16.pumice"
fails 3 "cannot open $T/none" eval "$story" --text "$T/none"
fails 3 "cannot open $T/none" eval "$story" --text "$T/text" --against "$T/none"
: >"$T/empty"
fails 3 "fewer than two tokens" eval "$story" --text "$T/empty"
fails 2 "--ctx must be from 2 to 1048576, not 1" eval "$story" --text "$T/text" --ctx 1
printf 'a\377\000b and so on' >"$T/bytes"
run eval "$story" --text "$T/bytes" --json; rc 0; no_err
seq 1 20000 >"$T/long"
printf 'expect eval [\nsignal 2\nexpect pumice: interrupted\nexit 130\n' >"$T/int.steps"
drive int eval "$story" --text "$T/long"

# ---- bench

run bench "$T/w8a8.pumice" -p 16 -n 4 -r 2; rc 0; no_err
n=$((n + 1)); grep -qE '^[0-9]+ threads; median of 2; TOPS and GB/s are what the machine multiplied ' "$T/out" || wrong "the first line reads otherwise"
is "$(sed -n 2p "$T/out")" "model              dtype       seqlen    new  TTFT (ms)  tokens/s  prefill/s      MiB   prefill   decode     TOPS  GB/s"
n=$((n + 1)); grep -qE '^tiny +w8a8 +16 +4 +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ % +[0-9.]+ % +[0-9.]+ +[0-9.]+$' "$T/out" || wrong "the row reads otherwise"
run bench "$T/w8a8.pumice" -p 16 -n 4 -r 1 --profile --trace "$T/trace.json"; rc 0; no_err
for part in "where the time goes: a prompt of 16 tokens (ms), and a token (us, mean of 4)" "  attn.qkv  " "  attention  " "  head  " "  waiting, handing " "  on the clock "; do out_has "$part"; done
n=$((n + 1)); grep -q '"name": "ffn.down", "ph": "X", "pid": 1, "tid": 0, ' "$T/trace.json" || wrong "the trace reads otherwise"
is "$(head -n 1 "$T/trace.json")$(tail -n 1 "$T/trace.json")" '{"traceEvents": []}'
run bench "$T/w8a8.pumice" -p 16 -n 4 -r 1 --batch 3; rc 0; no_err
out_has "3 sequences are decoded together"
fails 2 "it takes no --batch" bench "$T/w8a8.pumice" --profile --batch 2
fails 2 "--batch" bench "$T/w8a8.pumice" --batch 65
fails 2 "--trace goes with --profile and one file" bench "$T/w8a8.pumice" --trace "$T/t"
fails 2 "--profile prints a table of its own" bench "$T/w8a8.pumice" --profile --json
run bench "$T/w8a8.pumice" "$T/f16.pumice" -p 16 -n 4 -r 1 --markdown --threads 1; rc 0; no_err
out_has "1 threads; "
out_has "| model | dtype | seqlen | new tokens | TTFT (ms) | tokens/s | prefill tokens/s | memory (MiB) | prefill % of peak | decode % of read | TOPS | GB/s |"
is "$(grep -c '^| tiny | ' "$T/out")" 2
run bench "$T/w8a8.pumice" "$T/w4a16_g128.pumice" -p 16 -n 4 -r 1 --json --kv int8 --chunk 4 --threads 2; rc 0; no_err
is "$(head -c 1 "$T/out")$(tail -n 1 "$T/out")" "[]"
for key in model dtype threads batch prompt_tokens new_tokens ttft_ms prefill_tok_s decode_tok_s peak_memory_mib limit_int8_tops limit_read_gb_s prefill_pct decode_pct; do
    is "$(grep -c "\"$key\": " "$T/out")" 2
done
is "$(grep -o '"dtype": "[^"]*"' "$T/out" | tr '\n' ' ')" '"dtype": "w8a8" "dtype": "w4a16_g128" '
run bench "$T/w8a8.pumice" -p 16 -n 4 -r 1 --json; rc 0
is "$(value prompt_tokens) $(value new_tokens)" "16 4"
holds "$(value ttft_ms) > 0 && $(value decode_tok_s) > 0 && $(value limit_int8_tops) > 0 && $(value limit_read_gb_s) > 0 && $(value prefill_pct) > 0 && $(value decode_pct) > 0"
ttft=$(value ttft_ms); speed=$(value prefill_tok_s)
holds "$speed * $ttft / 16000 > 0.98 && $speed * $ttft / 16000 < 1.02"
run bench "$T/w8a8.pumice" -p 4 -n 1 -r 1 --json; rc 0; no_err
fails 4 "use a larger --ctx" bench "$T/w8a8.pumice" -p 16 --ctx 8
fails 3 "cannot open $T/none" bench "$T/w8a8.pumice" "$T/none"
"$CHECKPOINT" "$T/ck"
"$PUMICE" convert "$T/ck" -o "$T/vocab.pumice" --vocab-only 2>/dev/null
fails 3 "made with --vocab-only" bench "$T/vocab.pumice" -r 1
fails 3 "made with --vocab-only" eval "$T/vocab.pumice" --text "$T/text"
fails 3 "made with --vocab-only" logits "$T/vocab.pumice" --ids 1 --hash
# ---- bench --all: files made on the fly

mkdir "$T/tmp"
TMPDIR=$T/tmp; export TMPDIR
run bench --all tiny -p 16 -n 4 -r 1; rc 0; no_err
is "$(ls "$T/tmp")" ""
is "$(sed -n 2p "$T/out")" "RK3588, RK3576: RKLLM on those boards, 128 and 64 tokens: TTFT (ms), tokens/s, memory (MB); github.com/airockchip/rknn-llm, benchmark.md, June 2026"
is "$(sed -n 's/^tiny *\([a-z0-9_]*\) .*/\1/p' "$T/out" | tr '\n' ' ')" "w8a8 w4a16 w4a16_g128 "
is "$(grep -cE ' +[0-9.]+ +[0-9.]+         -        -      -         -        -      -$' "$T/out")" 3
run bench --all tiny --dtype w4a16_g32 --head w8 --dir "$T/kept" --keep -p 16 -n 4 -r 1 --markdown; rc 0; no_err
is "$(grep -c '^| tiny | w4a16_g32 | .* | | | | | | |$' "$T/out")" 1
is "$(awk -F'|' '/^\|/ { print NF }' "$T/out" | sort -u)" 20
run inspect "$T/kept/tiny-w4a16_g32.pumice"; out_has "head         w8 [515 x 96]"
run bench --all tiny --dtype f16 --keep -p 16 -n 4 -r 1 --json; rc 0; err_has "the files are in $T/tmp/pumice-bench-"
is "$(ls "$T/tmp"/pumice-bench-*)" "tiny-f16.pumice"
rm -r "$T/tmp"/pumice-bench-*
run bench --all tiny --dtype f16 --dir "$T/kept" -p 16 -n 4 -r 1 --json; rc 0; no_err
out_has '"rk3588": null, "rk3576": null, "peer_source": "github.com/airockchip/rknn-llm, benchmark.md, June 2026"}'
# --dir and --keep; a file that is there is used, and stays
run bench --all tiny --dtype w4a16 --dir "$T/kept" --keep -p 16 -n 4 -r 1; rc 0; no_err
run inspect "$T/kept/tiny-w4a16.pumice"; out_has "head         w4 [515 x 96]"
cp "$T/w8a8.pumice" "$T/kept/tiny-w8a8_g256.pumice"
run bench --all tiny --dtype w8a8_g256 --dir "$T/kept" -p 16 -n 4 -r 1; rc 0; out_has "tiny               w8a8   "; same "$T/kept/tiny-w8a8_g256.pumice" "$T/w8a8.pumice"
is "$(ls "$T/kept" | tr '\n' ' ')" "tiny-w4a16.pumice tiny-w4a16_g32.pumice tiny-w8a8_g256.pumice "
fails 2 'no model is called "frob"' bench --all frob
fails 2 "--dtype goes with --all" bench "$T/w8a8.pumice" --dtype w8a8
fails 2 "--keep goes with --all" bench "$T/w8a8.pumice" --keep
fails 2 '--head must be w8 or same, not "f16"' bench --all tiny --head f16
fails 1 "cannot make $T/none/x: No such file or directory" bench --all tiny --dir "$T/none/x"
TMPDIR=$T/none
fails 1 "cannot make a folder under $T/none" bench --all tiny
TMPDIR=$T/tmp
is "$(ls "$T/tmp")" ""
# stopped while it measures, and while it makes a file
printf 'some 0\nsignal 2\nexit 130\n' >"$T/stop.steps"
drive -p stop bench --all tiny --dtype w8a8 -r 1000
is "$(ls "$T/tmp")" ""
printf 'expect 0 %%\nsignal 15\nexit 143\n' >"$T/term.steps"
drive term bench --all qwen2-0.5b --dtype w8a8 -r 1
is "$(ls "$T/tmp")" ""
unset TMPDIR
printf 'some 0\nsignal 2\nexit 130\n' >"$T/stop.steps"
drive -p stop bench "$T/w8a8.pumice" -r 1000
finish
