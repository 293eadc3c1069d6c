#!/bin/sh
# pumice template: messages, tools, documents, variables, the clock, other templates, and what goes wrong with them.
. "$(dirname "$0")/lib.sh"

echo '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]' >"$T/m.json"
run template "$story" --messages "$T/m.json"; rc 0; no_err
printf '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n' >"$T/want"; same "$T/out" "$T/want"
run template "$story" --messages "$T/m.json" --no-generation-prompt; rc 0
printf '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n' >"$T/want"; same "$T/out" "$T/want"
in=$T/m.json
run template "$story" --messages -; rc 0; out_has "Be brief."
in=/dev/null

# Variables: JSON where it is JSON, else a string.
cat >"$T/t.jinja" <<'J'
{{ a is boolean }} {{ b is number }} {{ c }} {{ d[1] }} {{ e.f }} {{ g is none }} {{ tools|length if tools else 'no' }} {{ documents|length if documents else 'no' }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }}
J
echo '[{"type": "function", "function": {"name": "f"}}]' >"$T/tools.json"
echo '[{"title": "a", "text": "b"}, {"title": "c", "text": "d"}]' >"$T/docs.json"
run template "$story" --messages "$T/m.json" --template "$T/t.jinja" --tools "$T/tools.json" --documents "$T/docs.json" --now 2026-01-02T03:04:05 \
    --set a=true --set b=-1.5 --set 'c=say "hi" \ there' --set 'd=[1, 2]' --set 'e={"f": "deep"}' --set g=null
rc 0; out 'True True say "hi" \ there 2 deep True 1 2 2026-01-02 03:04:05'; no_err
run template "$story" --messages "$T/m.json" --template "$T/t.jinja" --now 2024-02-29T00:00:00 --set c=0x --set d=[1,2] --set e={}; rc 0; out_has "2024-02-29 00:00:00"; out_has " 0x 2 "

# A model without a template takes one.
"$CHECKPOINT" "$T/ck" && rm "$T/ck/tokenizer_config.json" && "$PUMICE" convert "$T/ck" -o "$T/plain.pumice" --vocab-only 2>/dev/null
fails 3 "the model has no chat template; give one with --template X.jinja" template "$T/plain.pumice" --messages "$T/m.json"
run template "$T/plain.pumice" --messages "$T/m.json" --template "$T/t.jinja" --set d=[1,2] --set e={}; rc 0; out_has " False "

# What is wrong is said, and nothing is printed.
fails 3 "cannot open $T/none: No such file" template "$story" --messages "$T/none"
fails 3 "cannot open $T/none: No such file" template "$story" --messages "$T/m.json" --tools "$T/none"
echo '{}' >"$T/object.json"
echo '[{"content": "x"}]' >"$T/norole.json"
echo '[{"role": "user",' >"$T/cut.json"
printf '[\000]' >"$T/nul.json"
printf '["\377"]' >"$T/bad.json"
fails 3 "messages is not a JSON array" template "$story" --messages "$T/object.json"
fails 3 'messages[0] has no "role"' template "$story" --messages "$T/norole.json"
echo '[]' >"$T/empty.json"
echo '[1]' >"$T/number.json"
fails 3 "messages is empty" template "$story" --messages "$T/empty.json"
fails 3 "messages[0] is not an object" template "$story" --messages "$T/number.json"
fails 3 "tools[0] is not an object" template "$story" --messages "$T/m.json" --tools "$T/number.json"
fails 3 "messages is not valid JSON" template "$story" --messages "$T/cut.json"
fails 3 "messages is not valid JSON" template "$story" --messages "$T/bad.json"
fails 3 "holds a NUL at byte 1" template "$story" --messages "$T/nul.json"
fails 3 "tools is not a JSON array" template "$story" --messages "$T/m.json" --tools "$T/object.json"
fails 2 '--set needs NAME=JSON, not "a"' template "$story" --messages "$T/m.json" --set a
fails 2 '--set needs NAME=JSON, not "=1"' template "$story" --messages "$T/m.json" --set =1
fails 2 '--set a={: not valid JSON' template "$story" --messages "$T/m.json" --set "a={"
for now in 2026 2026-02-30T00:00:00 2026-01-02T24:61:00 "2026-01-02 03:04:05" 2026-01-02T03:04:05Z yesterday; do
    fails 2 "--now needs a time such as 2026-01-02T03:04:05, not \"$now\"" template "$story" --messages "$T/m.json" --now "$now"
done
echo "{{ raise_exception('roles must alternate') }}" >"$T/raise.jinja"
echo "{% for x in %}" >"$T/syntax.jinja"
echo "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}" >"$T/endless.jinja"
fails 3 "roles must alternate" template "$story" --messages "$T/m.json" --template "$T/raise.jinja"
fails 3 "pumice: " template "$story" --messages "$T/m.json" --template "$T/syntax.jinja"
run template "$story" --messages "$T/m.json" --template "$T/endless.jinja"; no_out; err_has "the template needs more than"
n=$((n + 1)); [ "$rc" = 3 ] || [ "$rc" = 4 ] || wrong "exit code $rc"
finish
