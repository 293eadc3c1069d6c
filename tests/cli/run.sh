#!/bin/sh
# pumice run: exact answers, sampling, stops, prompts of every kind, signals, closed pipes.
. "$(dirname "$0")/lib.sh"
tiny w8a8
m=$T/w8a8.pumice

run run "$story" "Tell me a story." -n 12; rc 0; out "Once upon a time there lived a man who had three sons"; no_err
run run "$story" --raw "Once upon a time" -n 12; rc 0; out " a man who had a wife and three children. The man"; no_err
run run "$story" --raw "Once upon a time" -n 12 --temp 0; out " a man who had a wife and three children. The man"

# One seed, one text; with any number of threads, by any kernels; penalties and the other samplers change it.
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 3; rc 0; cp "$T/out" "$T/want"
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 3 --threads 3 --isa scalar --chunk 2; same "$T/out" "$T/want"
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed -1; rc 0; cp "$T/out" "$T/minus"
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 18446744073709551615; rc 0; same "$T/out" "$T/minus"
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed -9223372036854775808; rc 0; cp "$T/out" "$T/minus"
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 9223372036854775808; rc 0; same "$T/out" "$T/minus"
for option in "--seed 4" "--seed -1" "--top-k 2" "--top-p 0.2" "--min-p 0.4" "--repeat-penalty 3" "--mirostat 1" "--mirostat 2 --mirostat-tau 1 --mirostat-eta 0.5" \
    "--presence-penalty 9 --penalty-last-n -1" "--frequency-penalty 9" "--kv int8 --temp 2"; do
    # shellcheck disable=SC2086
    run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 3 $option; rc 0; no_err
    n=$((n + 1)); cmp -s "$T/out" "$T/want" && wrong "the option changes nothing"
done
run run "$story" --raw "Once upon a time" -n 24 --temp 0.9 --seed 5 --top-k 1; cp "$T/out" "$T/want"
run run "$story" --raw "Once upon a time" -n 24; same "$T/out" "$T/want"

# Where an answer ends.
run run "$story" --raw "Once upon a time" -n 12 --stop " three" --stop "never"; rc 0; out " a man who had a wife and"
run run "$story" --raw "Once upon a time" -n 12 --json; rc 0; no_err
out_has '{"text": " a man who had a wife and three children. The man", "prompt_tokens": 4, "new_tokens": 12, "stop": "length", "ttft_ms": '
for key in prefill_tok_s decode_tok_s peak_memory_mib; do out_has "\"$key\": "; done
is "$(wc -l <"$T/out")" 1
run run "$story" --raw "Once upon a time" --stop " three" --json; out_has '"text": " a man who had a wife and", '; out_has '"stop": "stop"'
run run "$m" hi --ctx 40 --json; rc 0; out_has '"stop": "context"'; err "pumice: stopped because the context of 40 tokens is full; a larger --ctx lets it go on"
run run "$story" --raw "Once upon a time" -n 3 --perf; rc 0; out " a man who"
n=$((n + 1)); grep -qE '^prompt 4 tokens \(0 reused\), TTFT [0-9.]+ ms, prefill [0-9.]+ tokens/s; 3 new tokens, decode [0-9.]+ tokens/s; peak memory [0-9.]+ MiB$' "$T/err" || wrong "--perf reads otherwise"

# A system message is part of the prompt.
run run "$story" "Hi" -n 1 --json; plain=$(sed 's/.*"prompt_tokens": \([0-9]*\).*/\1/' "$T/out")
run run "$story" "Hi" -n 1 --json --system "Be brief."; rc 0
n=$((n + 1)); [ "$(sed 's/.*"prompt_tokens": \([0-9]*\).*/\1/' "$T/out")" -gt "$plain" ] || wrong "--system adds no tokens"

# Prompts of every kind.
printf 'Once upon a time' >"$T/prompt"
in=$T/prompt
run run "$story" --raw - -n 12; rc 0; out " a man who had a wife and three children. The man"
in=/dev/null
run run "$story" "" -n 3; rc 0
fails 2 "the prompt is empty" run "$story" --raw ""
fails 2 "the prompt is empty" run "$story" --raw -
printf 'a\000b' >"$T/nul"
printf 'a\377\303b' >"$T/bad"
in=$T/nul
run run "$story" - -n 3; rc 0; no_err
run run "$story" --raw - -n 3 --json; rc 0; out_has '"prompt_tokens": 3'
in=$T/bad
run run "$story" --raw - -n 3; rc 0; no_err
fails 3 'the text is not valid UTF-8; only "pumice run --raw" takes it' run "$story" - -n 3
in=/dev/null
fails 3 "not valid UTF-8" run "$story" "$(cat "$T/bad")" -n 3
fails 3 "not valid UTF-8" run "$story" hi --system "$(cat "$T/bad")" -n 3
run run "$story" "<|im_end|><|im_start|>" -n 3; rc 0; no_err
run run "$story" --raw "<|im_end|><|im_end|>" -n 3; rc 0; no_err
fails 4 "use a larger --ctx or a shorter prompt" run "$story" --ctx 3 "a longer prompt than that"
seq 1 3000 >"$T/long"
in=$T/long
fails 4 "the context only 1024" run "$story" --raw -
in=/dev/null
run run "$story" hi --ctx 16777216 -n 3; rc 0
err "pumice: --ctx 16777216 is more than the 1024 tokens that the model was trained for: beyond them it may write nonsense"
run run "$story" hi --ctx 16777216 -n 3 --json; rc 0; no_err
run run "$story" hi --ctx 1024 -n 3; rc 0; no_err
"$CHECKPOINT" "$T/ck"
"$PUMICE" convert "$T/ck" -o "$T/vocab.pumice" --vocab-only 2>/dev/null
fails 3 "made with --vocab-only: it has no weights" run "$T/vocab.pumice" hi
rm "$T/ck/tokenizer_config.json"
"$PUMICE" convert "$T/ck" -o "$T/plain.pumice" --quality fast 2>/dev/null
fails 3 'the model has no chat template: it cannot answer; "pumice run --raw" lets it continue a text' run "$T/plain.pumice" hi
fails 3 "the model has no chat template" chat "$T/plain.pumice"
run run "$T/plain.pumice" --raw hi -n 3; rc 0; no_err

# Signals: what was written stays, the line is ended, the exit code tells. A reader that leaves ends the program at once.
cat >"$T/int.steps" <<'S'
expect nonsense
some 20
signal 2
exit 130
S
drive -p int run "$m" hello --ctx 200000
sed 's/signal 2/signal 15/; s/130/143/' "$T/int.steps" >"$T/term.steps"
drive -p term run "$m" hello --ctx 200000
printf 'expect nonsense\nsome 20\nhangup\nexit 141\n' >"$T/pipe.steps"
drive -p pipe run "$m" hello --ctx 200000
# --json keeps what there is: one whole object.
(drive_json() { "$PUMICE" run "$m" hello --ctx 200000 --json >"$T/out" 2>"$T/err" & pid=$!; sleep 1; kill -INT $pid; wait $pid; }; drive_json; echo $? >"$T/code")
is "$(cat "$T/code")" 130
cmd="run --json, interrupted"
out_has '"stop": "abort"'
finish
