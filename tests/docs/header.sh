#!/bin/sh
# include/pumice.h by itself, as a stranger's program sees it: C11 and C++17, pedantic, every warning an error, twice in one file, and with C's names in C++.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cat >"$T/use.c" <<'Q'
#include <pumice.h>
#include <pumice.h>
int use(void);
int use(void)
{
    pm_error err = { PM_OK, PM_NO_OFFSET, "" };
    pm_engine_params params = { 0, 0, NULL };
    pm_engine *engine = NULL;
    return pm_engine_create(&params, &engine, &err) == PM_OK;
}
Q
warnings="-Wall -Wextra -Wshadow -Wconversion -Wundef -pedantic -Werror"
# shellcheck disable=SC2086   # lists of words
$CC -std=c11 $warnings -Wstrict-prototypes -Wmissing-prototypes -I "$SOURCE/include" -c "$T/use.c" -o "$T/c.o"
echo "C11: ok"
cxx=${CXX:-c++}
if command -v "$cxx" >/dev/null; then
    # shellcheck disable=SC2086
    "$cxx" -x c++ -std=c++17 $warnings -I "$SOURCE/include" -c "$T/use.c" -o "$T/cxx.o"
    nm "$T/cxx.o" | grep -q ' U pm_engine_create$' || { echo "C++ does not see C's pm_engine_create"; exit 1; }
    echo "C++17: ok"
else
    echo "C++17: not checked, there is no C++ compiler here"
fi
