#!/bin/sh
# The library in numbers, to be looked at and not to be judged by: lines, functions and their lengths, the share of lines
# with a comment, for polar.h, polar.c and each section of it; public functions; code of inference alone.
#     sh tests/measure.sh
# A function is a block of braces that begins at the first column behind a line with a parenthesis; its lines are those
# from its first to its closing one.
cd "$(dirname "$0")/.." || exit 1

awk '
function put(name, lines, comments, n,    i, j, x, k) {
    for (i = 2; i <= n; i++) { # insertion sort: sections have few hundred functions
        x = len[i]
        for (j = i - 1; j > 0 && len[j] > x; j--) len[j + 1] = len[j]
        len[j + 1] = x
    }
    k = int(n * 0.9 + 0.9999)
    printf "%-12s %6d %10d", name, lines, n
    if (n) printf " %7d %5d %8d", len[int((n + 1) / 2)], len[k], len[n]
    else printf " %7s %5s %8s", "-", "-", "-"
    printf " %9.0f %%\n", lines ? 100 * comments / lines : 0
}
function flush_section(    i) {
    if (section != "") {
        for (i = 1; i <= n_section; i++) len[i] = section_len[i]
        put(section, section_lines, section_comments, n_section)
    }
    section_lines = section_comments = n_section = 0
}
BEGIN { printf "%-12s %6s %10s %7s %5s %8s %11s\n", "", "lines", "functions", "median", "p90", "longest", "commented" }
FILENAME != file {
    flush_section()
    if (file != "") { for (i = 1; i <= n; i++) len[i] = all[i]; put(file, lines, comments, n) }
    file = FILENAME; lines = comments = n = 0; section = ""; inside = 0; start = 0
}
/^ \* \[[a-z]+\] [A-Z]/ && FILENAME == "polar.c" {
    flush_section()
    section = $2
}
{
    lines++; section_lines++
    if (/\/\*/) inside = 1
    if (inside) { comments++; section_comments++ }
    if (/\*\//) inside = 0
}
FILENAME ~ /\.c$/ && /^[a-zA-Z].*\(/ && !/;[ \t]*(\/\*.*)?$/ && !inside { if (!start) start = FNR }
/^}/ && start { all[++n] = FNR - start + 1; section_len[++n_section] = FNR - start + 1; start = 0 }
/^[a-zA-Z].*;[ \t]*$/ { start = 0 }
/^#/ { start = 0 }
END {
    flush_section()
    for (i = 1; i <= n; i++) len[i] = all[i]
    put(file, lines, comments, n)
}' polar.h polar.c

printf 'public functions: %s\n' "$(grep -c '^POLAR_API ' polar.h)"
printf 'comment lines of polar.h and polar.c together: %s %%\n' "$(awk '/\/\*/ {c = 1} {n++; if (c) k++} /\*\// {c = 0} END {printf "%.0f", 100 * k / n}' polar.h polar.c)"
if [ -e build/embedded/device.o ]; then
    printf 'code of inference alone, -Os, this CPU: %s bytes\n' "$(size build/embedded/device.o | awk 'NR == 2 {print $1}')"
fi
