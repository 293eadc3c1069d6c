#!/bin/sh
# Usage: demo.sh PUMICE
# The main job at work: a checkpoint from elsewhere becomes one file, answers a question, and is measured. Without a network, the story model of this
# repository takes the stage.
set -eu
pumice=$1
dir=models/smollm2
gguf=$dir/SmolLM2-135M-Instruct.Q4_1.gguf
model=$dir/smollm2-135m-w8a8.pumice
show() { printf '\n$ %s\n' "$*"; }

if scripts/fetch-smollm2.sh $dir; then
    if [ ! -e $model ]; then
        show pumice convert $gguf -o $model --dtype w8a8 --quality fast --name SmolLM2-135M-Instruct
        "$pumice" convert $gguf -o $model --dtype w8a8 --quality fast --name SmolLM2-135M-Instruct
    fi
    show "pumice run $model \"What is the capital of France?\" --temp 0 --perf"
    "$pumice" run $model "What is the capital of France?" --temp 0 --perf
else
    echo "SmolLM2 cannot be fetched from here; the story model that lies in this repository tells a tale instead."
    model=models/story.pumice
    show "pumice run $model --raw \"Once upon a time\" -n 120 --temp 0.7 --seed 7"
    printf 'Once upon a time'
    "$pumice" run $model --raw "Once upon a time" -n 120 --temp 0.7 --seed 7 --perf
fi
show "pumice bench $model -r 2"
"$pumice" bench $model -r 2
