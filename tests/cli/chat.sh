#!/bin/sh
# pumice chat: through a pipe, and at a terminal (a pseudo-terminal that drive.c types into).
. "$(dirname "$0")/lib.sh"
tiny w8a8
m=$T/w8a8.pumice
HOME=$T     # no ~/.editrc
export HOME
unset LANG LC_ALL
TERM=xterm
export TERM

# ---- a pipe: each line a question, only answers on stdout

printf 'Tell me a story.\n' >"$T/q"
in=$T/q
run chat "$story" -n 12; rc 0; out "Once upon a time there lived a man who had three sons"; no_err
printf 'Tell me a story.' >"$T/q"               # no newline at the end
run chat "$story" -n 12; rc 0; out "Once upon a time there lived a man who had three sons"
printf 'Tell me a story.\r\n\n\n' >"$T/q"       # lines from another system; empty ones are no questions
run chat "$story" -n 12; rc 0; out "Once upon a time there lived a man who had three sons"
printf 'Tell me a story.\n' >"$T/q"
run chat "$story" -n 12 --stop " lived"; rc 0; out "Once upon a time there"
: >"$T/q"
run chat "$story"; rc 0; no_out; no_err

# What was said before counts, and is not computed again; /commands.
cat >"$T/q" <<Q
Tell me a story.
And then?
/stats
/tokens
/save $T/saved.json
/undo
/save $T/undone.json
/reset
/save $T/reset.json
/system Be brief.
Hi
/save $T/system.json
/load $T/saved.json
/temp 0.5
/save $T/again.json
 /home is where?
two \\
lines
/save $T/last.json
/quit
never reached
Q
run chat "$story" -n 12; rc 0
is "$(sed -n 1p "$T/out")" "Once upon a time there lived a man who had three sons"
err_has "tokens (29 reused), TTFT"
n=$((n + 1)); grep -qE '^[0-9]+ of 1024 tokens$' "$T/out" || wrong "/tokens reads otherwise"
err_has "[4 messages saved to $T/saved.json]"
err_has "[4 messages loaded]"
same "$T/saved.json" "$T/again.json"
is "$(grep -c '"role": "user"' "$T/saved.json")" 2
is "$(grep -c '"role": "assistant"' "$T/saved.json")" 2
is "$(grep -c '"role"' "$T/undone.json")" 2
is "$(cat "$T/reset.json")" "[]"
is "$(grep -c '"Be brief."' "$T/system.json")" 1
is "$(grep -c '"/home is where?"' "$T/last.json")" 1
is "$(grep -c '"two \\nlines"' "$T/last.json")" 1
run template "$story" --messages "$T/saved.json"; rc 0      # what is saved is a conversation

cat >"$T/q" <<Q
/frob
/save
/load
/undo
/system
/load $T/none
/load $T/w8a8.pumice
/temp warm
/temp -1
/help
/save $T/none/x
Q
run chat "$story"; rc 0
for part in "[unknown command; /help lists them]" "[/save needs the name of a file]" "[/load needs the name of a file]" "[there is nothing to undo]" \
    "[/system needs a text: it sets the system message and starts anew]" "pumice: cannot open $T/none: No such file" "pumice: $T/w8a8.pumice holds a NUL at byte" "[/temp needs a number from 0 to 100]" "cannot create $T/none/x"; do err_has "$part"; done
is "$(grep -c 'needs a number' "$T/err")" 2
for part in /system /reset /undo /save /load /temp /tokens /stats /help /quit Ctrl-C; do out_has "$part"; done
echo '[{"role": "user"}]' >"$T/half.json"
echo "/load $T/half.json" >"$T/q"
run chat "$story"; rc 0; err "[$T/half.json: not a saved conversation: it must be an array of {role, content}]"

# A question that cannot be asked is said, and the exit code is that of the last answer. NULs are characters.
printf 'a\377b\n' >"$T/q"
run chat "$story"; rc 3; no_out; err_has "not valid UTF-8"
printf 'a\000b\n' >"$T/q"
run chat "$story" -n 3; rc 0; no_err
printf 'a longer question than that\n' >"$T/q"
run chat "$story" --ctx 9; rc 4; no_out; err_has "use a larger --ctx or a shorter prompt"
printf 'a\377b\n/system \377\nHi\n/save %s\n' "$T/said.json" >"$T/q"
run chat "$story" -n 3 --system "Be brief."; rc 0; err_has "[this question was not asked]"
is "$(grep -c '"role"' "$T/said.json")" 3
is "$(grep -c '"Be brief."' "$T/said.json")" 1
printf 'Hi\n' >"$T/q"
run chat "$m" --ctx 40; rc 0; err "[the context of 40 tokens is full, and the answer ends here; the next question forgets the oldest turn where it needs the room; a larger --ctx holds more]"
printf 'Hi\nHi\n' >"$T/q"
run chat "$m" --ctx 64; rc 0; err_has "[the context is full: the oldest turn is forgotten]"
printf 'Hi\nHi\nHi\nHi\nHi\nHi\n' >"$T/q"
run chat "$story" -n 3 --ctx 64; rc 0; err_has "[the context is full: the oldest turn is forgotten]"; is "$(wc -l <"$T/out")" 6
cmd="pumice chat, a full disk"
printf 'Hi\nHi\n' >"$T/q"
rc=0; "$PUMICE" chat "$story" <"$T/q" >/dev/full 2>"$T/err" || rc=$?
rc 1; err_has "cannot write the output"
in=/dev/null
fails 3 "not valid UTF-8" chat "$story" --system "$(printf 'a\377')"

printf 'expect nonsense\nsend Tell me more\\n\nsome 50\nsignal 2\nexpect [stopped]\nexit 130\n' >"$T/int.steps"
drive -p int chat "$m" --ctx 200000
printf 'send Hi\\n\nsome 20\neof\nexit 0\n' >"$T/eof.steps"
drive -p eof chat "$m" -n 60
printf 'send Hi\\n\nsome 20\nsignal 15\nexit 143\n' >"$T/term.steps"
drive -p term chat "$m" -n 60

# A line without an end is no question; 1 MiB is one, however it is put together.
cmd="pumice chat, an endless line"
rc=0; tr '\0' a </dev/zero 2>/dev/null | "$PUMICE" chat "$story" >"$T/out" 2>"$T/err" || rc=$?
rc 3; no_out; err "pumice: a line has more than 1 MiB: that is no question, and the chat ends here"
cmd="pumice chat, an endless question"
rc=0; yes 'a\' 2>/dev/null | "$PUMICE" chat "$story" >"$T/out" 2>"$T/err" || rc=$?
rc 3; no_out; err_has "a line has more than 1 MiB"
(head -c 1048576 /dev/zero | tr '\0' a; echo) >"$T/q"
in=$T/q
run chat "$story"; rc 4; err_has "use a larger --ctx or a shorter prompt"
in=/dev/null

# ---- a terminal

cat >"$T/talk.steps" <<'S'
expect tiny, w8a8. /help lists the commands, Ctrl-D leaves.
prompt > 
# characters beyond ASCII can be typed and edited, whatever the locale
send h\xc3\xa9ll\xe2\x82\xac\xf0\x9f\x91\x91x\x08o\n
some 100
send \x03
expect [stopped]
prompt > 
send /save SAVED\n
expect [2 messages saved
prompt > 
# what is no character becomes ?, and swallows nothing
send /fr\xffo\xe2b\n
expect [unknown command
prompt > 
# Ctrl-C drops a line
send half a line\x03
prompt > 
send /tokens\n
expect of 200000 tokens
prompt > 
# and stops an answer
send go on\n
expect go on
some 100
send \x03
expect [stopped]
prompt > 
# history: two lines up is /tokens
send \e[A\e[A\n
expect of 200000 tokens
prompt > 
# editing: the beginning of the line, delete, the end
send xtokens\x01\x04/\x05\n
expect of 200000 tokens
prompt > 
send first \\\n
prompt   
send second\n
expect second
some 100
send \x03
expect [stopped]
prompt > 
send /help\n
expect Ctrl-C stops an answer
prompt > 
send \x03
prompt > 
send \x03
prompt > 
send \x04
exit 0
S
sed -i "s|SAVED|$T/typed.json|" "$T/talk.steps"
drive talk chat "$m" --ctx 200000
is "$(grep -c "$(printf 'h\303\251ll\342\202\254\360\237\221\221o')" "$T/typed.json")" 1

printf 'prompt > \nsend /quit\\n\nexit 0\n' >"$T/quit.steps"
drive quit chat "$m"
printf 'prompt > \nsignal 15\nexit 143\n' >"$T/term.steps"
drive term chat "$m"
printf 'prompt > \nsend go on\\n\nexpect go on\nsome 50\nsignal 15\nexit 143\n' >"$T/term2.steps"
drive term2 chat "$m" --ctx 200000
TERM=dumb
printf 'prompt > \nsend Hi\\n\nexpect Hi\nsome 9\nprompt > \nsend \\x04\nexit 0\n' >"$T/dumb.steps"
drive dumb chat "$m" -n 80
finish
