#!/bin/sh
# Runs the test programs named, JOBS or as many as there are cores at once; prints each one's result in their order and
# the sum as the last line. RUNNER, an emulator of another CPU, may be in the environment.
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
results=$(mktemp -d) || exit 1
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

# Each program that has ended says so with a line.
run_all() {
    printf '%s\n' "$@" | results=$results xargs -P "$jobs" -I{} sh -c '
        out=$results/${1##*/}
        ${RUNNER:-} "$1" >"$out.text" 2>&1
        echo $? >"$out.status"
        echo' sh {}
}

report() {
    passed=0 failed=0 skipped=0
    for t in "$@"; do
        out=$results/${t##*/}
        while [ ! -s "$out.status" ]; do read -r ended || break; done
        status=$(cat "$out.status")
        line=$(tail -n 1 "$out.text" | tr -d '\r' |
            sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
        read -r p f s <<END
$line
END
        if [ "$f$status" != 00 ] && [ "${f:-0}" = 0 ]; then
            p=0 f=1 s=0
            cat "$out.text"
            printf '%s: died with status %s\n' "$t" "$status"
        else
            sed '$d' "$out.text"
        fi
        printf '%-24s %s passed, %s failed, %s skipped\n' "${t##*/}" "$p" "$f" "$s"
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}

run_all "$@" | report "$@"
