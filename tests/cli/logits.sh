#!/bin/sh
# pumice logits: the NumPy file to the byte, the hash, and that neither threads, chunks, kernels nor the kind of input change it.
. "$(dirname "$0")/lib.sh"
for t in f16 w8a8 w4a16_g32; do tiny $t; done
m=$T/w8a8.pumice
ids="1 5 9 200 77 3 3 42 17 250 8 8 8 121 90 66 13"
echo "1,5, 9 200	77
3 3 42 17 250 8 8 8 121 90 66 13" >"$T/ids"

# The file: magic, version 1.0, a header of 118 bytes, then 17 x 515 floats. The hash is of the floats.
run logits "$m" --ids "$ids" -o "$T/l.npy" --hash; rc 0; no_err; cp "$T/out" "$T/hash"
hash=$(cat "$T/hash")
alone "$T/l.npy"
is "$(head -c 10 "$T/l.npy" | od -An -tx1 | tr -d ' \n')" 934e554d505901007600
is "$(head -c 128 "$T/l.npy" | tail -c 118)" "{'descr': '<f4', 'fortran_order': False, 'shape': (17, 515), }                                                       "
is "$(wc -c <"$T/l.npy")" $((128 + 4 * 17 * 515))
is "$(tail -c +129 "$T/l.npy" | sha256sum | cut -d' ' -f1)" "$hash"
run logits "$m" --ids "$ids" -o -; rc 0; same "$T/out" "$T/l.npy"
run logits "$m" --ids "$ids" -o /dev/stdout; rc 0; same "$T/out" "$T/l.npy"
run logits "$m" --ids "1 5" -o "$T/l.npy"; rc 0; no_out      # replaces the file
is "$(wc -c <"$T/l.npy")" $((128 + 4 * 2 * 515))

# The same bits by every way.
for option in "--threads 1" "--threads 3" "--threads 7" "--chunk 1" "--chunk 7" "--chunk 64" "--ctx 17" "--ctx 4000" "--kv f16"; do
    # shellcheck disable=SC2086
    run logits "$m" --ids "$ids" --hash $option; rc 0; out "$hash"; no_err
done
run logits "$m" --ids-file "$T/ids" --hash; rc 0; out "$hash"
in=$T/ids
run logits "$m" --ids-file - --hash; rc 0; out "$hash"
in=/dev/null
for t in f16 w8a8 w4a16_g32; do
    for kv in f16 f32 int8; do
        run logits "$T/$t.pumice" --ids "$ids" --hash --kv $kv; rc 0; hash=$(cat "$T/out")
        echo "$hash" >>"$T/hashes"
        for isa in $("$PUMICE" run "$m" hi --isa $foreign 2>&1 | sed 's/.*available are //; s/,//g'); do
            run logits "$T/$t.pumice" --ids "$ids" --hash --kv $kv --isa "$isa" --chunk 5; rc 0; out "$hash"
        done
    done
done
is "$(sort -u "$T/hashes" | wc -l)" 9                        # types and caches do differ
run tokenize "$story" --text "Once upon a time"
run logits "$story" --ids "$(cat "$T/out")" --hash; cp "$T/out" "$T/want"
run logits "$story" --text "Once upon a time" --hash; rc 0; same "$T/out" "$T/want"

# What cannot be done.
fails 2 "there are no ids" logits "$m" --ids "" --hash
fails 2 "token 1 has id 515; ids are from 0 to 514" logits "$m" --ids "1 515" --hash
fails 2 "token 0 has id -1" logits "$m" --ids "-1" --hash
fails 2 "the text is empty" logits "$m" --text "" --hash
fails 4 "use a larger --ctx" logits "$m" --ids "$ids" --ctx 16 --hash
fails 3 "cannot open $T/none" logits "$m" --ids-file "$T/none" --hash
printf '1 2\0003' >"$T/nul"
fails 3 "holds a NUL at byte 3" logits "$m" --ids-file "$T/nul" --hash
fails 2 "both write to standard output" logits "$m" --ids 1 --hash -o -
fails 1 "cannot create $T/none/l.npy: No such file or directory" logits "$m" --ids 1 -o "$T/none/l.npy"
fails 1 "it is a folder" logits "$m" --ids 1 -o "$T"
fails 1 "cannot write /dev/full: No space left on device" logits "$m" --ids 1 -o /dev/full --hash

# A failure leaves what was there, and nothing beside it.
echo precious >"$T/kept.npy"
fails 2 "token 1 has id 515" logits "$m" --ids "1 515" -o "$T/kept.npy"
is "$(cat "$T/kept.npy")" precious
alone "$T/kept.npy"
cmd="pumice logits with a limit of 4 KiB a file"
rc=0
(ulimit -f 8; exec "$PUMICE" logits "$m" --ids "$ids" -o "$T/kept.npy" >"$T/out" 2>"$T/err" </dev/null) || rc=$?
rc 1; no_out; err "pumice: cannot write $T/kept.npy: File too large"
is "$(cat "$T/kept.npy")" precious
alone "$T/kept.npy"
finish
