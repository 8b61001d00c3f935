#!/bin/sh
# Speed of polar and llama.cpp on the same files, threads and machine, in turn, as rows of a table:
#     LLAMA_BENCH=/path/to/llama-bench sh tests/bench_llama.sh FILE.gguf ...
# PROMPT, DECODE, THREADS and ROUNDS may be set; of the rounds the best is printed, as other work can only slow one down.
: "${LLAMA_BENCH:=llama-bench}" "${PROMPT:=128}" "${DECODE:=24}" "${THREADS:=2}" "${ROUNDS:=3}"
if [ $# -eq 0 ] || ! command -v "$LLAMA_BENCH" >/dev/null; then
    echo "usage: LLAMA_BENCH=/path/to/llama-bench sh tests/bench_llama.sh FILE.gguf ..." >&2
    exit 2
fi
best() { sort -g | tail -n 1; }
# speeds KEY: the numbers of a key in JSON
speeds() { grep -o "\"$1\": *[0-9.]*" | sed 's/.*: *//'; }
echo "| file | prefill tokens/s: polar | llama.cpp | decode tokens/s: polar | llama.cpp |"
echo "|---|---|---|---|---|"
for file; do
    pp="" pd="" lp="" ld="" round=0
    while [ $round -lt "$ROUNDS" ]; do
        ours=$(./polar bench -m "$file" -p "$PROMPT" -n "$DECODE" -t "$THREADS" -r 1 --json) || exit 1
        pp="$pp $(echo "$ours" | speeds prefill_tps)" pd="$pd $(echo "$ours" | speeds decode_tps)"
        lp="$lp $("$LLAMA_BENCH" -m "$file" -p "$PROMPT" -n 0 -t "$THREADS" -r 1 -o json 2>/dev/null | speeds avg_ts)"
        ld="$ld $("$LLAMA_BENCH" -m "$file" -p 0 -n "$DECODE" -t "$THREADS" -r 1 -o json 2>/dev/null | speeds avg_ts)"
        round=$((round + 1))
    done
    for list in "$pp" "$lp" "$pd" "$ld"; do echo "$list" | tr ' ' '\n' | best; done |
        awk -v file="$(basename "$file")" 'BEGIN { printf "| %s", file } { printf " | %.1f", $1 } END { print " |" }'
done
