#!/bin/sh
# pumice tokenize: every form of input and output, NULs and invalid UTF-8, and back again.
. "$(dirname "$0")/lib.sh"

run tokenize "$story" --text "Once upon a time"; rc 0; out "2236 699 258 515"; no_err
run tokenize "$story" --text "Once upon a time" --ids; out "2236 699 258 515"
run tokenize "$story" --text=""; rc 0; out ""
run tokenize "$story" --text "hi" --json; rc 0; out '{"ids": [71, 72], "pieces": ["h", "i"]}'
run tokenize "$story" --text "<|im_start|>hi<|im_end|>" --json; out '{"ids": [3070, 71, 72, 3071], "pieces": ["<|im_start|>", "h", "i", "<|im_end|>"]}'
run tokenize "$story" --text "<|im_start|><|im_start|><|im_end|>"; out "3070 3070 3071"
run tokenize "$story" --text "hi" --add-special; out "71 72"
run tokenize "$story" --text 'say "\' --json; rc 0; out '{"ids": [82, 331, 370, 59], "pieces": ["s", "ay", " \"", "\\"]}'

# From a file and from standard input, with the last newline as part of the text.
printf 'Once upon a time' >"$T/text"
run tokenize "$story" --file "$T/text"; rc 0; out "2236 699 258 515"; no_err
in=$T/text
run tokenize "$story"; out "2236 699 258 515"; no_err
run tokenize "$story" --file -; out "2236 699 258 515"
in=/dev/null
run tokenize "$story"; rc 0; out ""
fails 3 "cannot open $T/none: No such file or directory" tokenize "$story" --file "$T/none"
fails 3 "cannot read $T: Is a directory" tokenize "$story" --file "$T"

# Bytes that are no text go in as U+FFFD (as the official tokenizers read them); a NUL is a character like others. JSON stays JSON.
printf 'a\000b' >"$T/nul"
printf 'a\377\303b\355\240\200' >"$T/bad"
run tokenize "$story" --file "$T/nul" --json; rc 0; out '{"ids": [64, 188, 65], "pieces": ["a", "\u0000", "b"]}'
run tokenize "$story" --file "$T/bad" --json; rc 0
LC_ALL=C.UTF-8 iconv -f UTF-8 -t UTF-32 "$T/out" >/dev/null 2>&1 || wrong "JSON that is not UTF-8"
run tokenize "$story" --file "$T/nul"; out "64 188 65"

# Back.
run tokenize "$story" --decode "2236 699 258 515"; rc 0; out "Once upon a time"; no_err
run tokenize "$story" --decode "2236,699, 258	515"; out "Once upon a time"
run tokenize "$story" --decode "64 188 65"; printf 'a\000b\n' >"$T/want"; same "$T/out" "$T/want"
run tokenize "$story" --decode "3070 71 72 3071"; out "<|im_start|>hi<|im_end|>"
printf 'Es war einmal ein K\303\266nig \342\200\224 \360\237\221\221!\n\n  two  spaces\ttab' >"$T/text"
run tokenize "$story" --file "$T/text"
run tokenize "$story" --decode "$(cat "$T/out")"; printf '\n' >>"$T/text"; same "$T/out" "$T/text"
fails 2 "there are no ids" tokenize "$story" --decode ""
fails 2 "there are no ids" tokenize "$story" --decode " , "
fails 2 'at character 2 stands "x"' tokenize "$story" --decode "1 x"
fails 2 'at character 0 stands "1-2"' tokenize "$story" --decode "1-2"
fails 2 "at character 0" tokenize "$story" --decode "4294967297"
fails 2 "3072" tokenize "$story" --decode "3072"
fails 2 "-1" tokenize "$story" --decode "-1"

# A file made of the vocabulary alone tokenizes like the whole.
"$CHECKPOINT" "$T/ck"
run convert "$T/ck" -o "$T/vocab.pumice" --vocab-only; rc 0
run tokenize "$T/vocab.pumice" --text "hello <|im_end|>"; out "256 257 111 32 259"
finish
