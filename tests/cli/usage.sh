#!/bin/sh
# What every command does with wrong usage: options, numbers, missing and surplus arguments; --help, --version; a full disk as standard output.
. "$(dirname "$0")/lib.sh"
tiny w8a8
m=$T/w8a8.pumice
commands="convert run chat bench eval inspect tokenize template logits synth"

# The program itself.
run --version; rc 0; out "pumice 0.1.0"; no_err
run; rc 2; no_out; err_has "usage:"
run --help; rc 0; no_err; cp "$T/out" "$T/help"
for c in $commands; do out_has "  $c "; done
run -h; same "$T/out" "$T/help"
run help; same "$T/out" "$T/help"
out_has "exit codes:"
fails 2 'there is no command "frob"; "pumice --help" lists them' frob
fails 2 'did you mean "tokenize"?' tokenise
fails 2 'did you mean "--version"?' -version
fails 2 'did you mean "chat"?' help caht
fails 2 'there is no command ""' ""

# Every command teaches.
for c in $commands; do
    run "$c" --help; rc 0; no_err; cp "$T/out" "$T/help"
    for part in "pumice $c: " "usage:" "  pumice $c " "options:" "  --help " "examples:" "exit codes: 0 done"; do out_has "$part"; done
    n=$((n + 1)); [ "$(sed -n '/^examples:/,/^$/p' "$T/out" | grep -c "pumice $c")" -ge 2 ] || wrong "fewer than two examples"
    n=$((n + 1)); [ "$(awk '{ if (length($0) > m) m = length($0) } END { print m }' "$T/out")" -le 100 ] || wrong "a line is longer than 100 columns"
    run help "$c"; same "$T/out" "$T/help"
    run "$c" --help --frob; rc 0
    fails 2 'there is no option "--frobnicate"' "$c" --frobnicate
    fails 2 "Try \"pumice $c --help\"." "$c" --frobnicate
    fails 2 'did you mean "--help"?' "$c" --hepl
    fails 2 'pumice' "$c"
done

# Numbers.
fails 2 "-n must be from 0 to 16777216, not -3" run "$m" hi -n -3
fails 2 "-n must be from 0 to 16777216, not 99999999999999999999" run "$m" hi -n 99999999999999999999
fails 2 '-n needs a whole number, not "7x"' run "$m" hi -n 7x
fails 2 '-n needs a whole number, not ""' run "$m" hi -n ""
fails 2 '-n needs a whole number, not " 7"' run "$m" hi -n " 7"
fails 2 '-n needs a whole number, not "1e3"' run "$m" hi -n 1e3
fails 2 '--temp needs a number, not "warm"' run "$m" hi --temp warm
fails 2 "--temp must be from 0 to 100, not inf" run "$m" hi --temp inf
fails 2 "--temp must be from 0 to 100, not nan" run "$m" hi --temp nan
fails 2 "--temp must be from 0 to 100, not -1" run "$m" hi --temp=-1
fails 2 "--top-p must be from 0 to 1, not 1.5" run "$m" hi --top-p 1.5
fails 2 "--seed must be from -9223372036854775808 to 18446744073709551615, not 18446744073709551616" run "$m" hi --seed 18446744073709551616
fails 2 "--seed must be from -9223372036854775808 to 18446744073709551615, not -9223372036854775809" synth tiny -o "$T/x" --seed -9223372036854775809
for seed in "" x 1x " 1" +1 -; do fails 2 "--seed needs a whole number, not \"$seed\"" run "$m" hi --seed "$seed"; done
fails 2 "--repeat-penalty must be from 0.01 to 100, not 0" run "$m" hi --repeat-penalty 0
fails 2 "--stop needs a text that is not empty" run "$m" hi --stop ""
fails 2 "--stop needs a text that is not empty" chat "$m" --stop a --stop=
fails 2 "--threads must be from 1 to 64, not 0" run "$m" hi --threads 0
fails 2 "--threads must be from 1 to 64, not 65" logits "$m" --ids 1 --hash --threads 65
fails 2 "--ctx must be from 1 to 16777216, not 0" run "$m" hi --ctx 0
fails 2 "--chunk must be from 1 to 65536, not -1" run "$m" hi --chunk -1
fails 2 "-n needs a value: N" run "$m" hi -n
fails 2 "--raw takes no value" run "$m" hi --raw=yes
fails 2 'did you mean "--temp"?' run "$m" hi --temperature 1
fails 2 'did you mean "--threads"?' run "$m" hi -threads 2
fails 2 'did you mean "--top-k"?' run "$m" hi --topk 2
fails 2 'there is no option "-z"' run "$m" hi -z
n=$((n + 1)); grep -q "did you mean" "$T/err" && wrong "a guess at -z"
fails 2 "--stop is given more than 64 times" run "$m" hi $(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do printf ' --stop a --stop b --stop c --stop d --stop e'; done)

# Names.
fails 2 '--kv must be f16, f32 or int8, not "f8"' run "$m" hi --kv f8
err 'pumice run: --kv must be f16, f32 or int8, not "f8"
Try "pumice run --help".'
fails 2 '--kv must be f16, f32 or int8, not "f8"' bench "$m" --kv f8
fails 2 'pumice run: --isa must be scalar, avx2, avxvnni, avx512vnni, neon or dotprod, not "mmx"' run "$m" hi --isa mmx
fails 2 'Try "pumice inspect --help".' inspect "$m" --isa mmx
fails 3 "kernel tier \"$foreign\" is not available here; available are scalar" run "$m" hi --isa $foreign
fails 2 '--rotate must be auto, on or off, not "yes"' synth tiny -o "$T/x" --rotate yes
fails 2 '--head must be w8 or same, not "f16"' synth tiny -o "$T/x" --head f16

for c in "convert $T -o $T/x" "synth tiny -o $T/x" "bench --all"; do
    # shellcheck disable=SC2086
    fails 2 ": --dtype must be f16, bf16, w8a8, w8a8_g32, w8a8_g64, w8a8_g128, w8a8_g256, w8a8_g512, w4a16, w4a16_g32, w4a16_g64 or w4a16_g128, not \"q4\"" $c --dtype q4
done

# Missing and surplus arguments.
fails 2 "give a .pumice file and a prompt" run "$m"
fails 2 "put it in quotes" run "$m" tell me a story
fails 2 "--raw has no place for --system" run "$m" hi --raw --system s
fails 2 "give one .pumice file" chat "$m" "$m"
fails 2 "give at least one .pumice file" eval --text x
fails 2 "--text F is missing" eval "$m"
fails 2 "give one of --ids, --ids-file and --text" logits "$m" --hash
fails 2 "give one of --ids, --ids-file and --text" logits "$m" --hash --ids 1 --text a
fails 2 "give -o OUT.npy, --hash, or both" logits "$m" --ids 1
fails 2 "--messages M.json is missing" template "$m"
fails 2 "exclude each other" tokenize "$m" --text a --file b
fails 2 "exclude each other" tokenize "$m" --text a --ids --json
fails 2 "--decode prints text" tokenize "$m" --decode 1 --json
fails 2 "exclude each other" bench "$m" --json --markdown
fails 2 "-o FILE is missing" convert "$T"
fails 2 "-o FILE is missing" synth tiny
fails 2 "give one model's name" synth -o "$T/x"
gone "$T/x"

# A name that begins with a dash goes after "--".
(cd "$T" && cp w8a8.pumice ./-m.pumice)
cd "$T" || exit 1
run tokenize --text a -- -m.pumice; rc 0; out 97
cd - >/dev/null || exit 1

# Files that are not what they should be.
printf 'GGUF\003\000\000\000' >"$T/x.gguf"
: >"$T/empty.pumice"
head -c 3000 "$m" >"$T/cut.pumice"
for c in "run FILE hi" "chat FILE" "tokenize FILE --text a" "template FILE --messages /dev/null" "logits FILE --ids 1 --hash" "eval FILE --text /dev/null" "inspect FILE" "bench FILE"; do
    # shellcheck disable=SC2046,SC2086
    set -- $c
    words() { echo "$c" | sed "s|FILE|$1|"; }
    fails 3 "cannot open $T/none: No such file or directory" $(words "$T/none")
    fails 3 "a checkpoint folder? Make a .pumice file of it first: pumice convert" $(words "$T")
    fails 3 "this is a GGUF file. Make a .pumice file of it first: pumice convert" $(words "$T/x.gguf")
    fails 3 "$T/empty.pumice: " $(words "$T/empty.pumice")
    fails 3 "$T/cut.pumice: " $(words "$T/cut.pumice")
    fails 3 "not a safetensors file" $(words "$SOURCE/meson.build")
    fails 3 "/dev/null is not a regular file" $(words /dev/null)
done

# A full disk as standard output: said, and not with exit code 0.
full() {
    cmd="pumice $* >/dev/full"
    rc=0
    "$PUMICE" "$@" >/dev/full 2>"$T/err" </dev/null || rc=$?
    : >"$T/out"
    rc 1
    err_has "pumice: cannot write"
}
echo '[{"role": "user", "content": "Hi"}]' >"$T/m.json"
full --help
full --version
full run --help
full run "$m" hi -n 5
full run "$m" hi -n 5 --json
full run "$m" hi --ctx 1000000
full tokenize "$m" --text hello
full tokenize "$m" --decode "1 2"
full template "$m" --messages "$T/m.json"
full inspect "$m"
full inspect "$m" --json
full logits "$m" --ids 1 --hash
full logits "$m" --ids 1 -o -
full logits "$m" --ids 1 -o /dev/full
n=$((n + 1)); [ -c /dev/full ] || { echo "FAIL /dev/full is no device any more"; bad=$((bad + 1)); }
finish
