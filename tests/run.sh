#!/bin/sh
# Runs the test programs named, prints each one's result and the sum as the last line. RUNNER, an emulator of another
# CPU, may be in the environment.
passed=0 failed=0
for t in "$@"; do
    out=$(${RUNNER:-} "$t" 2>&1); status=$?
    line=$(printf '%s\n' "$out" | tail -n 1)
    p=$(printf '%s' "$line" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1/p')
    f=$(printf '%s' "$line" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\2/p')
    if [ -z "$p" ]; then f=1 p=0; printf '%s: died with status %s\n' "$t" "$status"; fi
    printf '%s\n' "$out" | sed '$d'
    printf '%-24s %s passed, %s failed\n' "${t##*/}" "$p" "$f"
    passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
