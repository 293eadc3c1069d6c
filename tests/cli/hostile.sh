#!/bin/sh
# What strangers and broken machines do to the program: closed streams, full and read-only disks, pipes and devices for files, files that lie. Each ends in one line on
# stderr and the documented exit code; nothing half written stays.
. "$(dirname "$0")/lib.sh"
tiny w8a8
m=$T/w8a8.pumice
"$CHECKPOINT" "$T/ck" || exit 1

# ---- standard streams that are closed

"$PUMICE" logits "$m" --ids "1 2 3" -o "$T/want.npy"
"$PUMICE" convert "$T/ck" -o "$T/want.pumice" 2>/dev/null
: >"$T/out"
closed() {     # stdout is closed: said, and not with 0
    cmd="pumice $* >&-"
    rc=0
    "$PUMICE" "$@" >&- 2>"$T/err" </dev/null || rc=$?
    rc 1
    err_has "pumice: cannot write the output"
    is "$(wc -l <"$T/err")" 1
}
closed --version
closed --help
closed tokenize "$m" --text hello
closed inspect "$m"
closed run "$m" hi -n 3
closed logits "$m" --ids "1 2 3" -o "$T/l.npy" --hash
same "$T/l.npy" "$T/want.npy"          # what was printed did not go into the file
cmd="pumice convert, all streams closed"
rc=0
"$PUMICE" convert "$T/ck" -o "$T/c.pumice" <&- >&- 2>&- || rc=$?
rc 0
same "$T/c.pumice" "$T/want.pumice"
cmd="pumice convert of nothing, all streams closed"
rc=0
"$PUMICE" convert "$T/none" -o "$T/d.pumice" <&- >&- 2>&- || rc=$?
rc 3
gone "$T/d.pumice"
cmd="pumice tokenize, stdin closed"
rc=0
"$PUMICE" tokenize "$m" <&- >"$T/out" 2>"$T/err" || rc=$?
rc 3; no_out; err "pumice: cannot read standard input: Bad file descriptor"
cmd="pumice run -, stdin closed"
rc=0
"$PUMICE" run "$m" - <&- >"$T/out" 2>"$T/err" || rc=$?
rc 3; no_out; err "pumice: cannot read standard input: Bad file descriptor"

# ---- disks

if unshare -rm true 2>/dev/null; then
    # shellcheck disable=SC2016
    full() {   # NAME COMMAND...: writes $T/disk/NAME on a disk of 32 KiB
        mkdir -p "$T/disk"
        cmd="pumice $* on a full disk"
        rc=0
        unshare -rm sh -c 'mount -t tmpfs -o size=32k disk "$0/disk" || exit 99; echo precious >"$0/disk/kept"; "$@" >"$0/out" 2>"$0/err" </dev/null; rc=$?; ls "$0/disk" >"$0/left"; exit $rc' \
            "$T" "$PUMICE" "$@" || rc=$?
        if [ $rc = 99 ]; then echo "no disk can be mounted here: not tried"; return; fi
        rc 1; no_out; err_has "pumice: cannot write $T/disk/x: No space left on device"
        is "$(cat "$T/left")" kept
    }
    full convert "$T/ck" -o "$T/disk/x" --dtype f16
    full synth tiny -o "$T/disk/x"
    full logits "$m" --ids "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40" -o "$T/disk/x"
    cmd="pumice synth on a read-only disk"
    rc=0
    # shellcheck disable=SC2016
    unshare -rm sh -c 'mount -t tmpfs -o ro disk "$0/disk" || exit 99; exec "$1" synth tiny -o "$0/disk/x" >"$0/out" 2>"$0/err"' "$T" "$PUMICE" || rc=$?
    [ $rc = 99 ] || { rc 1; no_out; err "pumice: cannot create $T/disk/x: Read-only file system"; }
fi
fails 1 "cannot create /proc/x.pumice: " convert "$T/ck" -o /proc/x.pumice
fails 1 "cannot create /proc/x.npy: " logits "$m" --ids 1 -o /proc/x.npy
if [ "$(id -u)" != 0 ]; then
    mkdir "$T/ro"
    chmod 555 "$T/ro"
    fails 1 "cannot create $T/ro/x.pumice: Permission denied" convert "$T/ck" -o "$T/ro/x.pumice"
    chmod 000 "$T/ro"
    fails 1 "Permission denied" convert "$T/ro" -o "$T/x.pumice"
    fails 1 "Permission denied" run "$T/ro/m.pumice" hi
    chmod 755 "$T/ro"
fi

# ---- things that are no files

mkfifo "$T/pipe"
for c in "run $T/pipe hi" "inspect $T/pipe" "tokenize $T/pipe --text a" "convert $T/pipe -o $T/x.pumice"; do
    # shellcheck disable=SC2086
    fails 3 "$T/pipe is not a regular file" $c      # and nobody waits for a writer
done
fails 3 "/dev/zero is not a regular file" convert /dev/zero -o "$T/x.pumice"
fails 3 "/dev/null is not a regular file" run /dev/null hi
fails 3 "/dev/null is not a regular file" convert "$T/ck" -o "$T/x.pumice" --calibrate /dev/null
rm "$T/ck/config.json"
mkfifo "$T/ck/config.json"
fails 3 "config.json is not a regular file" convert "$T/ck" -o "$T/x.pumice"
rm "$T/ck/config.json"
"$CHECKPOINT" "$T/ck"

# ---- inputs without an end

fails 3 "/dev/urandom holds a NUL at byte" logits "$m" --hash --ids-file /dev/urandom
fails 3 "/dev/zero holds a NUL at byte 0: it is not a text file" template "$m" --messages /dev/zero
fails 3 "/dev/zero has more than 256 MiB, the most that is read as a text" tokenize "$m" --file /dev/zero
in=/dev/zero
fails 3 "standard input has more than 256 MiB" run "$m" -
in=/dev/null

# ---- a file for which there are no memory addresses

truncate -s 8G "$T/huge.pumice"
if (ulimit -v 4000000; "$PUMICE" --version >/dev/null 2>&1); then       # not where a sanitizer needs more
    for c in "inspect $T/huge.pumice" "convert $T/huge.pumice -o $T/x.pumice"; do
        cmd="pumice $c with 4 GB of addresses"
        rc=0
        # shellcheck disable=SC2086
        (ulimit -v 4000000; exec "$PUMICE" $c >"$T/out" 2>"$T/err" </dev/null) || rc=$?
        rc 4; no_out; err "pumice: cannot map $T/huge.pumice: Cannot allocate memory"
    done
fi
rm "$T/huge.pumice"

# ---- checkpoints that lie, as a user meets them

lie() {        # SED-SCRIPT CODE ERR-PART: config.json changed
    "$CHECKPOINT" "$T/ck"
    sed -i "$1" "$T/ck/config.json"
    fails "$2" "$3" convert "$T/ck" -o "$T/x.pumice"
    gone "$T/x.pumice"; alone "$T/x.pumice"
}
lie 's/"hidden_size": 32/"hidden_size": 0/' 3 'pumice: config.json: field "hidden_size" is 0; it must be from 1 to 32768'
lie 's/"hidden_size": 32/"hidden_size": 1e999/' 3 'config.json is not valid JSON: real number overflow'
lie 's/"hidden_size": 32/"hidden_size": "32"/' 3 'config.json: field "hidden_size" must be a whole number'
lie 's/"hidden_size": 32/"hidden_size": 64/' 3 'has shape [1, 32]; hidden_size say [1, 64]'
lie 's/"num_hidden_layers": 1/"num_hidden_layers": 2/' 3 'tensor "model.layers.1.input_layernorm.weight" is missing'
lie 's/"vocab_size": 260/"vocab_size": 259/' 3 'vocab_size and hidden_size say [259, 32]'
lie 's/"hidden_size": 32/"hidden_size": -96/' 3 'field "hidden_size" is -96; it must be from 1 to 32768'
lie 's/"eos_token_id": 259/"eos_token_id": 260/' 3 'config.json: field "eos_token_id" has 260; ids are from 0 to 259'
lie 's/"rms_norm_eps": 1e-6/"rms_norm_eps": -1/' 3 'field "rms_norm_eps" is -1'
lie 's/"hidden_size": 32/"hidden_size": 32, "hidden_size": 32/' 3 'duplicate object key'
"$CHECKPOINT" "$T/ck"
for f in model.safetensors config.json; do      # a slip of the hand does not cost the checkpoint
    cp "$T/ck/$f" "$T/before"
    fails 2 "-o $T/ck/$f would replace a file of the source" convert "$T/ck" -o "$T/ck/$f"
    fails 2 "would replace a file of the source" convert "$T/ck/" -o "$T/ck/../ck/$f"
    same "$T/ck/$f" "$T/before"
done
run convert "$T/ck" -o "$T/ck/m.pumice"; rc 0
run convert "$T/ck" -o "$T/ck/m.pumice"; rc 0
size=$(wc -c <"$T/ck/model.safetensors")
truncate -s $((size - 1)) "$T/ck/model.safetensors"
fails 3 "model.safetensors: tensor \"model.norm.weight\" ends at byte $size, the file has $((size - 1)): it is cut off or damaged" convert "$T/ck" -o "$T/x.pumice"
truncate -s 5 "$T/ck/model.safetensors"
fails 3 "model.safetensors: the file has 5 bytes: too short for a safetensors file (at byte 0)" convert "$T/ck" -o "$T/x.pumice"
gone "$T/x.pumice"; alone "$T/x.pumice"
fails 3 "neither a checkpoint folder nor a GGUF file (it does not begin with \"GGUF\")" convert "$m" -o "$T/x.pumice"
head -c 3000 "$SOURCE/tests/fuzz/corpus/gguf/seed-llama-f32" >"$T/cut.gguf"
fails 3 "it is cut off or damaged" convert "$T/cut.gguf" -o "$T/x.pumice"
run convert "$SOURCE/tests/fuzz/corpus/gguf/seed-llama-q4_0" -o "$T/q.pumice" --dtype w4a16_g32; rc 0
run inspect "$T/q.pumice" --verify; rc 0; out_has 'made from GGUF v3 "Tiny"; 5 linears hold its quantized weights without loss'
finish
