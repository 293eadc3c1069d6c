#!/bin/sh
# Usage: check-symbols.sh BUILD-FOLDER
# Every symbol that the library defines carries the prefix pm_, the shared library exports only what pumice.h marks, and the library
# calls nothing that ends the process, prints, reads the environment, or computes elementary functions with libm.
set -eu
build=${1:-build}
nm=${NM:-nm}
bad=0
objs=$(find "$build"/libpumice_core.a.p "$build"/src/kernel -name '*.o' ! -name '*src_cli*' 2>/dev/null)
foreign=$($nm --defined-only -g -A $objs | awk '$NF !~ /^pm_/ && $(NF-1) ~ /[TDBRVWC]/ { print "  " $NF " in " $1 }' | grep -v -E ' (__asan|__odr_asan|__ubsan|__sanitizer|__llvm|__start_|__stop_)' || true)
if [ -n "$foreign" ]; then echo "symbols without the prefix pm_:"; echo "$foreign"; bad=1; fi
calls='exit|_exit|_Exit|quick_exit|abort|__assert_fail|printf|fprintf|vprintf|vfprintf|__printf_chk|__fprintf_chk|__vfprintf_chk|puts|putchar|fputs|perror|getenv|secure_getenv|setenv|system|popen|rand|random|srand|strtok|setlocale'
libm='expf?|exp2f?|expm1f?|logf?|log2f?|log10f?|log1pf?|powf?|sinf?|cosf?|tanf?|sincosf?|tanhf?|sinhf?|coshf?|atanf?|atan2f?|erff?|cbrtf?|hypotf?'
used=$($nm --undefined-only -A $objs | awk '{ print $NF " " $1 }' | sed 's/@[^ ]*//' | grep -E "^($calls|$libm) " || true)
if [ -n "$used" ]; then echo "calls that the library may not make:"; echo "$used" | sed 's/^/  /'; bad=1; fi
so="$build/libpumice.so"
if [ -e "$so" ]; then
    exported=$($nm -D --defined-only "$so" | awk '{ print $NF }' | sed 's/@.*//' | sort -u)
    declared=$(grep -oE '\bpm_[a-z0-9_]+\(' "$(dirname "$0")/../include/pumice.h" | tr -d '(' | sort -u)
    for s in $exported; do
        echo "$declared" | grep -qx "$s" || { echo "exported but not in pumice.h: $s"; bad=1; }
    done
    marked=$(sed -n '/^PM_API/,/;/p' "$(dirname "$0")/../include/pumice.h" | grep -oE '\bpm_[a-z0-9_]+\(' | tr -d '(' | sort -u)
    for s in $marked; do
        echo "$exported" | grep -qx "$s" || { echo "in pumice.h but not exported: $s"; bad=1; }
    done
fi
[ $bad -eq 0 ] && echo "symbols: ok"
exit $bad
