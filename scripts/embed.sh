#!/bin/sh
# Usage: embed.sh FILE NAME: C source with FILE's bytes as NAME[] and NAME_len.
set -eu
echo "#include <stddef.h>"
echo "extern const char $2[];"
echo "extern const size_t $2_len;"
echo "const char $2[] = {"
LC_ALL=C od -An -v -td1 "$1" | sed 's/  */,/g; s/^,//; s/$/,/'
echo "0 };"
echo "const size_t $2_len = sizeof $2 - 1;"
