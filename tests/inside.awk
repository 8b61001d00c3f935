# polar.c for tests, which look inside, in two parts, so that it is compiled once and not by each of them:
#   awk -f tests/inside.awk polar.c                   its types, tables and macros, and prototypes of its functions
#   awk -v bodies=1 -f tests/inside.awk polar.c       polar.c, but other files see its static functions
# It relies on the form of polar.c: what is not indented begins a definition, and "}" ends a function. Inline functions
# and arrays stay in both.

BEGIN { if (!bodies) print "#pragma GCC system_header" }

# Inside of a function or table that is left out, or in a definition whose head has more lines.
skipping { if ($0 ~ last) skipping = 0; next }
head != "" { head = head "\n" $0; decide(); next }

/^[A-Za-z_].*[({,=]$/ || /^[A-Za-z_].*\)[ ]*[{;].*$/ || /^static const [a-z0-9_]+ [a-z0-9_]+ = \{.*\};$/ {
    head = $0
    decide()
    next
}

{ print }

# Prints what `head` begins as soon as it is known, and forgets it.
function decide(  first, object) {
    first = head
    sub(/\n.*/, "", first)
    if (head !~ /[;{}]$/ && first !~ /^(typedef|struct|enum|union|#)/) return
    if (first !~ /^(typedef|struct|enum|union)/ && first !~ /inline|INLINE/) {
        object = head ~ /^static const [a-z0-9_]+ [a-z0-9_]+ = \{/ && head !~ /\}, /
        if (object || (head ~ /\(/ && head !~ /=/ && head ~ /(^|\n)[^\n]*[{};]$/)) {
            sub(/^static /, "", head)
            if (!bodies) {
                if (object) {
                    if (head !~ /\};$/) { skipping = 1; last = "^};$" }
                    sub(/ = .*/, ";", head)
                    head = "extern " head
                } else if (head ~ /\{$/) {
                    skipping = 1
                    last = "^}$"
                    sub(/ \{$/, ";", head)
                } else if (head ~ /\}$/) sub(/ \{.*/, ";", head)
            }
        }
    }
    print head
    head = ""
}
