#!/bin/sh
# Installs what the build and the tests need and this machine lacks; says what it does, and does nothing where nothing is missing.
set -eu

# What counts is that the tools answer, wherever they come from; package names matter only for what is missing.
missing=""
need() { missing="$missing $1"; }
command -v "${CC:-gcc}" >/dev/null || need gcc
command -v meson >/dev/null || need meson
command -v ninja >/dev/null || need ninja-build
if command -v pkg-config >/dev/null; then
    for m in libpcre2-8:libpcre2-dev libutf8proc:libutf8proc-dev jansson:libjansson-dev libedit:libedit-dev cmocka:libcmocka-dev; do
        pkg-config --exists "${m%%:*}" || need "${m##*:}"
    done
else
    need pkg-config
    for p in libpcre2-dev libutf8proc-dev libjansson-dev libedit-dev libcmocka-dev; do need $p; done
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "This machine lacks:$missing (Debian's names). Install them with your system's package manager, then run make again." >&2
    exit 1
fi
root=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "This machine lacks:$missing. As root: apt-get install$missing" >&2
        exit 1
    fi
    root=sudo
fi
echo "installing what is missing with apt-get:$missing"
$root apt-get update -qq
# shellcheck disable=SC2086   # a list of package names
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
