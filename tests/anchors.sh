#!/bin/sh
# README's reading path names functions of polar.c with their lines, as [`name`](polar.c#L123). This writes the lines anew
# after polar.c has changed; a test says when that is needed.
#     sh tests/anchors.sh
cd "$(dirname "$0")/.." || exit 1
for name in $(grep -o '\[`[a-z_0-9]*`\](polar\.c#L[0-9]*)' README.md | sed 's/\[`\(.*\)`.*/\1/'); do
    # the last definition: functions that a switch replaces stand before the real ones
    line=$(grep -nE "^[a-z].*[ *]$name\(" polar.c | grep -v ';$' | tail -n 1 | cut -d: -f1)
    [ "$line" ] || { echo "anchors.sh: polar.c has no function $name" >&2; exit 1; }
    sed -i "s/\[\`$name\`\](polar\.c#L[0-9]*)/[\`$name\`](polar.c#L$line)/" README.md
done
