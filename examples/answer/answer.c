/* answer.c - the implementation of answer.h. MIT licence.
 *
 * There is no computer algebra: an answer is read into a tree whose constant parts are folded as exact rationals; what
 * is left is evaluated in complex doubles with an error bound, symbols at eight fixed points.
 *
 * Order of the file: spans, extraction, exact integers, complex numbers, characters to tokens, tokens to a tree,
 * evaluation, equality. Extraction allocates nothing and reads the text a fixed number of times; equality takes one
 * block of fixed size, nests ANS_DEPTH deep at most, and every piece of work is paid from a budget, after which answers
 * count as different. Tolerances are far above the rounding of any C library, so the verdict does not depend on it. */
#include "answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "what has no value is NaN here: compile without -ffast-math and -Ofast"
#endif

#ifndef ANSWER_MALLOC
#define ANSWER_MALLOC malloc
#endif

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define ANS_RESPONSE 65536  /* of a longer response only this many bytes at its end are searched */
#define ANS_TEXT 2048       /* longer answers are not read as mathematics, only compared */
#define ANS_TOKENS 2048
#define ANS_NODES 3000
#define ANS_DEPTH 48        /* of brackets, fractions, ... inside each other */
#define ANS_HEIGHT 160      /* of the tree: x + x + ... is as high as it is long */
#define ANS_ELEMENTS 128    /* of a list or matrix */
#define ANS_POOL 32768      /* 32-bit limbs of all exact integers together */
#define ANS_LIMBS 192       /* of one of them: 1849 decimal digits */
#define ANS_BUDGET 400000   /* units of about ten nanoseconds: half of what an answer may cost */

/* --- spans of text --- */

/* Characters, without the locale: ASCII only. */
static int ans_is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int ans_is_digit(char c) {
    return c >= '0' && c <= '9';
}

static int ans_is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char ans_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* A span of a text; of a span, what starts at a place; without spaces at both ends. */
static polar_span ans_span(const char *text, size_t length) {
    polar_span s;
    s.text = text;
    s.length = length;
    return s;
}

/* s[from..to) */
static polar_span ans_slice(polar_span s, size_t from, size_t to) {
    return ans_span(s.text + from, to > from ? to - from : 0);
}

static polar_span ans_from(polar_span s, size_t from) {
    return ans_slice(s, from, s.length);
}

static polar_span ans_trim(polar_span s) {
    while (s.length && ans_is_space(s.text[0])) s = ans_from(s, 1);
    while (s.length && ans_is_space(s.text[s.length - 1])) s.length--;
    return s;
}

/* 1 if `what`, in lower case where fold is set, stands at this place. */
static int ans_at(polar_span s, size_t at, const char *what, int fold) {
    for (; *what; what++, at++)
        if (at >= s.length || (fold ? ans_lower(s.text[at]) : s.text[at]) != *what) return 0;
    return 1;
}

/* 1 if the span starts or ends with a text. */
static int ans_starts(polar_span s, const char *what) {
    return ans_at(s, 0, what, 0);
}

static int ans_ends(polar_span s, const char *what) {
    size_t n = strlen(what);
    return s.length >= n && ans_at(s, s.length - n, what, 0);
}

#define ANS_NONE ((size_t)-1)

/* Place of the first or the last occurrence, ANS_NONE without one. */
static size_t ans_find(polar_span s, const char *what) {
    for (size_t i = 0; i < s.length; i++)
        if (s.text[i] == *what && ans_at(s, i, what, 0)) return i;
    return ANS_NONE;
}

static size_t ans_find_last(polar_span s, const char *what, int fold) {
    for (size_t i = s.length; i-- > 0;)
        if ((s.text[i] == *what || fold) && ans_at(s, i, what, fold)) return i;
    return ANS_NONE;
}

/* The text after the last `what`; the whole text without it. */
static polar_span ans_after_last(polar_span s, const char *what) {
    size_t at = ans_find_last(s, what, 0);
    return at == ANS_NONE ? s : ans_from(s, at + strlen(what));
}

/* 1 if a span is one of the words of a list, without case. */
static int ans_is_any(polar_span s, const char *words) {
    while (*words) {
        const size_t n = strcspn(words, " ");
        size_t i = 0;
        while (n == s.length && i < n && ans_lower(s.text[i]) == words[i]) i++;
        if (n && n == s.length && i == n) return 1;
        words += n + (words[n] == ' ');
    }
    return 0;
}

/* 1 if two spans are the same bytes. */
static int ans_same_bytes(polar_span a, polar_span b) {
    return a.length == b.length && !memcmp(a.text, b.text, a.length);
}

/* --- words with a value, and units --- */

/* Kinds of number words, and their values; of fractions the denominator. */
enum { WORD_NONE, WORD_ONE, WORD_TEN, WORD_HUNDRED, WORD_SCALE, WORD_DOZEN, WORD_PART, WORD_HALF, WORD_ARTICLE };

typedef struct ans_number_word {
    const char *word;
    int kind;
    uint64_t value;
} ans_number_word;

static const ans_number_word ans_number_words[] = {
    {"zero", WORD_ONE, 0}, {"one", WORD_ONE, 1}, {"two", WORD_ONE, 2}, {"three", WORD_ONE, 3}, {"four", WORD_ONE, 4},
    {"five", WORD_ONE, 5}, {"six", WORD_ONE, 6}, {"seven", WORD_ONE, 7}, {"eight", WORD_ONE, 8}, {"nine", WORD_ONE, 9},
    {"ten", WORD_ONE, 10}, {"eleven", WORD_ONE, 11}, {"twelve", WORD_ONE, 12}, {"thirteen", WORD_ONE, 13},
    {"fourteen", WORD_ONE, 14}, {"fifteen", WORD_ONE, 15}, {"sixteen", WORD_ONE, 16}, {"seventeen", WORD_ONE, 17},
    {"eighteen", WORD_ONE, 18}, {"nineteen", WORD_ONE, 19}, {"twenty", WORD_TEN, 20}, {"thirty", WORD_TEN, 30},
    {"forty", WORD_TEN, 40}, {"fourty", WORD_TEN, 40}, {"fifty", WORD_TEN, 50}, {"sixty", WORD_TEN, 60},
    {"seventy", WORD_TEN, 70}, {"eighty", WORD_TEN, 80}, {"ninety", WORD_TEN, 90}, {"hundred", WORD_HUNDRED, 100},
    {"thousand", WORD_SCALE, 1000}, {"million", WORD_SCALE, 1000000}, {"billion", WORD_SCALE, 1000000000},
    {"trillion", WORD_SCALE, 1000000000000u}, {"dozen", WORD_DOZEN, 12}, {"half", WORD_HALF, 2},
    {"halves", WORD_HALF, 2}, {"third", WORD_PART, 3}, {"fourth", WORD_PART, 4}, {"quarter", WORD_PART, 4},
    {"fifth", WORD_PART, 5}, {"sixth", WORD_PART, 6}, {"seventh", WORD_PART, 7}, {"eighth", WORD_PART, 8},
    {"ninth", WORD_PART, 9}, {"tenth", WORD_PART, 10}, {"eleventh", WORD_PART, 11}, {"twelfth", WORD_PART, 12},
    {"hundredth", WORD_PART, 100}, {"thousandth", WORD_PART, 1000}, {"a", WORD_ARTICLE, 1}, {"an", WORD_ARTICLE, 1},
};

/* The word at a place as a number word; `plural` says that an s follows. Its end goes to *end. */
static ans_number_word ans_number_word_at(polar_span s, size_t at, int *plural, size_t *end) {
    static const ans_number_word none = {"", WORD_NONE, 0};
    size_t n = 0, length;
    *plural = 0;
    while (at + n < s.length && ans_is_letter(s.text[at + n])) n++;
    *end = at + n;
    for (int i = 0; i < COUNT(ans_number_words); i++) {
        const ans_number_word *w = &ans_number_words[i];
        length = strlen(w->word);
        *plural = n == length + 1 && w->kind >= WORD_HUNDRED && w->kind <= WORD_PART && s.text[at + length] == 's';
        if ((n == length || *plural) && ans_at(s, at, w->word, 1)) return *w;
    }
    return none;
}

/* Dimensions as digits of a number in base 16, which add when units are multiplied: 3 lengths minus 1 time is
 * 3 * U_LENGTH - U_TIME. Months are no number of days, degrees Celsius and Fahrenheit no differences of each other. */
#define U_LENGTH 1
#define U_MASS 16
#define U_TIME 256
#define U_CURRENT 4096
#define U_MONEY 65536
#define U_AMOUNT 1048576
#define U_KELVIN 16777216
#define U_MONTH ((int64_t)1 << 28)
#define U_CELSIUS ((int64_t)1 << 32)
#define U_FAHRENHEIT ((int64_t)1 << 36)
#define U_FORCE (U_MASS + U_LENGTH - 2 * U_TIME)
#define U_ENERGY (U_FORCE + U_LENGTH)
#define U_POWER (U_ENERGY - U_TIME)
#define U_VOLT (U_POWER - U_CURRENT)

/* One unit is num / den * 10^exponent of the base units m, kg, s, A, dollar, mol, K. Symbols take prefixes (km, mL) as
 * letters, names (kilometre) as words; the plural of names is understood. */
typedef struct ans_unit_row {
    const char *name;
    uint32_t num, den;
    int8_t exponent, flags;
    int64_t dimension;
} ans_unit_row;

#define UNIT_PREFIX 1
#define UNIT_NAME 2
#define UNIT_UNSAID 4

static const ans_unit_row ans_units[] = {
    {"m", 1, 1, 0, 1, U_LENGTH}, {"meter", 1, 1, 0, 3, U_LENGTH}, {"metre", 1, 1, 0, 3, U_LENGTH},
    {"in", 254, 1, -4, 0, U_LENGTH}, {"inch", 254, 1, -4, 2, U_LENGTH}, {"inches", 254, 1, -4, 0, U_LENGTH},
    {"ft", 3048, 1, -4, 0, U_LENGTH}, {"foot", 3048, 1, -4, 2, U_LENGTH}, {"feet", 3048, 1, -4, 0, U_LENGTH},
    {"yd", 9144, 1, -4, 2, U_LENGTH}, {"yard", 9144, 1, -4, 2, U_LENGTH}, {"mi", 1609344, 1, -3, 0, U_LENGTH},
    {"mile", 1609344, 1, -3, 2, U_LENGTH}, {"g", 1, 1, -3, 1, U_MASS}, {"gram", 1, 1, -3, 3, U_MASS},
    {"gramme", 1, 1, -3, 3, U_MASS}, {"kilo", 1, 1, 0, 2, U_MASS}, {"t", 1, 1, 3, 0, U_MASS},
    {"ton", 1, 1, 3, 2, U_MASS}, {"tonne", 1, 1, 3, 2, U_MASS}, {"lb", 45359237, 1, -8, 2, U_MASS},
    {"pound", 45359237, 1, -8, 2, U_MASS}, {"oz", 45359237, 16, -8, 0, U_MASS}, {"ounce", 45359237, 16, -8, 2, U_MASS},
    {"s", 1, 1, 0, 1, U_TIME}, {"sec", 1, 1, 0, 2, U_TIME}, {"second", 1, 1, 0, 3, U_TIME},
    {"min", 60, 1, 0, 2, U_TIME}, {"minute", 60, 1, 0, 2, U_TIME}, {"h", 3600, 1, 0, 0, U_TIME},
    {"hr", 3600, 1, 0, 2, U_TIME}, {"hour", 3600, 1, 0, 2, U_TIME}, {"day", 86400, 1, 0, 2, U_TIME},
    {"week", 604800, 1, 0, 2, U_TIME}, {"month", 1, 1, 0, 2, U_MONTH}, {"year", 12, 1, 0, 2, U_MONTH},
    {"yr", 12, 1, 0, 2, U_MONTH}, {"L", 1, 1, -3, 1, 3 * U_LENGTH}, {"l", 1, 1, -3, 1, 3 * U_LENGTH},
    {"liter", 1, 1, -3, 3, 3 * U_LENGTH}, {"litre", 1, 1, -3, 3, 3 * U_LENGTH},
    {"gallon", 3785411784u, 1, -12, 2, 3 * U_LENGTH}, {"gal", 3785411784u, 1, -12, 2, 3 * U_LENGTH},
    {"quart", 3785411784u, 4, -12, 2, 3 * U_LENGTH}, {"qt", 3785411784u, 4, -12, 2, 3 * U_LENGTH},
    {"pint", 3785411784u, 8, -12, 2, 3 * U_LENGTH}, {"pt", 3785411784u, 8, -12, 2, 3 * U_LENGTH},
    {"cup", 3785411784u, 16, -12, 2, 3 * U_LENGTH}, {"dollar", 1, 1, 0, 2, U_MONEY}, {"USD", 1, 1, 0, 0, U_MONEY},
    {"buck", 1, 1, 0, 2, U_MONEY}, {"cent", 1, 1, -2, 2, U_MONEY}, {"mph", 44704, 1, -5, 0, U_LENGTH - U_TIME},
    {"kph", 5, 18, 0, 0, U_LENGTH - U_TIME}, {"kmh", 5, 18, 0, 0, U_LENGTH - U_TIME}, {"N", 1, 1, 0, 1, U_FORCE},
    {"newton", 1, 1, 0, 3, U_FORCE}, {"J", 1, 1, 0, 1, U_ENERGY}, {"joule", 1, 1, 0, 3, U_ENERGY},
    {"eV", 1602176634, 1, -28, 1, U_ENERGY}, {"Wh", 3600, 1, 0, 1, U_ENERGY},
    {"Pa", 1, 1, 0, 1, U_FORCE - 2 * U_LENGTH}, {"pascal", 1, 1, 0, 3, U_FORCE - 2 * U_LENGTH},
    {"W", 1, 1, 0, 1, U_POWER}, {"watt", 1, 1, 0, 3, U_POWER}, {"V", 1, 1, 0, 1, U_VOLT}, {"volt", 1, 1, 0, 3, U_VOLT},
    {"A", 1, 1, 0, 1, U_CURRENT}, {"amp", 1, 1, 0, 3, U_CURRENT}, {"ampere", 1, 1, 0, 3, U_CURRENT},
    {"C", 1, 1, 0, 1, U_CURRENT + U_TIME}, {"coulomb", 1, 1, 0, 3, U_CURRENT + U_TIME},
    {"Omega", 1, 1, 0, 1, U_VOLT - U_CURRENT}, {"ohm", 1, 1, 0, 3, U_VOLT - U_CURRENT}, {"K", 1, 1, 0, 1, U_KELVIN},
    {"kelvin", 1, 1, 0, 2, U_KELVIN}, {"Hz", 1, 1, 0, 1, -U_TIME}, {"hertz", 1, 1, 0, 1, -U_TIME},
    {"mol", 1, 1, 0, 1, U_AMOUNT}, {"mole", 1, 1, 0, 2, U_AMOUNT}, {"celsius", 1, 1, 0, 0, U_CELSIUS},
    {"fahrenheit", 1, 1, 0, 0, U_FAHRENHEIT}, {"unit", 1, 1, 0, 6, U_LENGTH},
};

static const struct {
    const char *symbol, *name;
    int8_t exponent;
} ans_prefixes[] = {{"k", "kilo", 3},   {"M", "mega", 6},   {"G", "giga", 9},  {"c", "centi", -2},
                    {"d", "deci", -1},  {"m", "milli", -3}, {"u", "micro", -6}, {"n", "nano", -9}, {"p", "pico", -12}};

/* A row's name as a whole, perhaps in plural. Case counts for symbols unless `fold` is set. */
static int ans_is_unit_name(const ans_unit_row *u, polar_span s, int fold) {
    const size_t n = strlen(u->name);
    const int plural = u->flags & UNIT_NAME && s.length == n + 1 && ans_lower(s.text[n]) == 's';
    if (s.length != n && !plural) return 0;
    for (size_t i = 0; i < n; i++)
        if (fold || u->flags & UNIT_NAME ? ans_lower(s.text[i]) != ans_lower(u->name[i]) : s.text[i] != u->name[i])
            return 0;
    return 1;
}

/* The row of a name without or with a prefix, whose exponent goes to *exponent; NULL for what is no unit. */
static const ans_unit_row *ans_find_unit(polar_span s, int *exponent) {
    for (int fold = 0; fold < 2; fold++) /* mW is no MW; but KM is km */
        for (int prefix = -1; prefix < COUNT(ans_prefixes); prefix++)
            for (int i = 0; i < COUNT(ans_units); i++) {
                const ans_unit_row *u = &ans_units[i];
                const char *p = prefix < 0             ? ""
                                : u->flags & UNIT_NAME ? ans_prefixes[prefix].name
                                                       : ans_prefixes[prefix].symbol;
                const size_t n = strlen(p);
                if (prefix >= 0 && !(u->flags & UNIT_PREFIX)) continue;
                if (fold && (s.length < 2 || (prefix >= 0 && u->dimension != U_LENGTH && u->dimension != U_MASS &&
                                              u->dimension != 3 * U_LENGTH)))
                    continue;
                for (size_t k = 0; k <= n; k++) {
                    if (k == n) {
                        *exponent = u->exponent + (prefix < 0 ? 0 : ans_prefixes[prefix].exponent);
                        if (ans_is_unit_name(u, ans_from(s, n), fold)) return u;
                    } else if (k >= s.length ||
                               (fold || n > 1 ? ans_lower(s.text[k]) != ans_lower(p[k]) : s.text[k] != p[k]))
                        break;
                }
            }
    return NULL;
}

/* --- extraction ---
 * Each function looks for one form of answer and returns 1 with what it found:
 *
 *     marker   ... #### 42            # Answer: 42         A: 42         (own line)
 *     box      ... \boxed{42} ...     \fbox{42}            \boxed 42$
 *     phrase   The answer is 42.      So 42 is the answer. The statement is true.
 *     formula  ... $x = 42$ ...       \( 42 \)             \[ 42 \]
 *     number   ... and pays 42 dollars in total.
 *
 * The result is a part of the response, so nothing is rewritten here: "1,250" and "42 dollars" stay as they are,
 * and it is the comparison that knows what they mean. */

/* 1 for a decimal that goes on: "0.1666...". */
static int ans_goes_on(polar_span s) {
    size_t n = s.length;
    if (n < 5 || !ans_ends(s, "...")) return 0;
    for (n -= 3; n && ans_is_digit(s.text[n - 1]);) n--;
    return n + 3 < s.length && n && s.text[n - 1] == '.';
}

/* Takes from both ends what never belongs to an answer: spaces, sentence punctuation, brackets without a
 * partner, and a pair of math delimiters or asterisks around the whole. */
static int ans_tidy_end(polar_span *s) {
    char last = s->text[s->length - 1];
    if (ans_ends(*s, "\\)") || ans_ends(*s, "\\]")) {
        if (ans_find(*s, last == ')' ? "\\(" : "\\[") != ANS_NONE) return 0; /* its partner is inside */
        return s->length -= 2, 1;
    }
    if (last == '$') { /* kept while its partner is there */
        size_t open = ans_find_last(ans_slice(*s, 0, s->length - 1), "$", 0);
        if (open != ANS_NONE && open + 1 < s->length - 1) return 0;
    }
    if (ans_goes_on(*s)) return 0;
    if (last == '!' && !(s->length > 1 && ans_is_space(s->text[s->length - 2]))) return 0; /* a factorial */
    return (ans_is_space(last) || strchr("([{\\:./,#?$\"'!;", last)) ? s->length--, 1 : 0;
}

/* The same in front: 1 if something was taken. A point before a digit belongs to the number. */
static int ans_tidy_start(polar_span *s) {
    char first = s->text[0];
    int number = first == '.' && s->length > 1 && ans_is_digit(s->text[1]);
    if (ans_starts(*s, "\\)") || ans_starts(*s, "\\]")) return *s = ans_from(*s, 2), 1;
    return !number && (ans_is_space(first) || strchr(":.,;)]}!?#\"'", first)) ? *s = ans_from(*s, 1), 1 : 0;
}

/* Removes one pair of delimiters around the whole text. */
static int ans_unwrap(polar_span *s) {
    static const char *const pairs[][2] = {{"$$", "$$"}, {"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"}, {"**", "**"}};
    for (int i = 0; i < COUNT(pairs); i++) {
        size_t open = strlen(pairs[i][0]), close = strlen(pairs[i][1]);
        if (s->length <= open + close || !ans_starts(*s, pairs[i][0]) || !ans_ends(*s, pairs[i][1])) continue;
        if (ans_find(ans_slice(*s, open, s->length - close), pairs[i][0]) != ANS_NONE) continue;
        *s = ans_slice(*s, open, s->length - close);
        return 1;
    }
    return 0;
}

/* All of that until nothing changes. Long texts are left as they are: no answer, and not worth the passes. */
static polar_span ans_tidy(polar_span s) {
    while (s.length && s.length <= ANS_TEXT && s.text[0] && s.text[s.length - 1] &&
           (ans_tidy_start(&s) || ans_tidy_end(&s) || ans_unwrap(&s)))
        continue;
    return s;
}

/* After "\boxed": the group in braces (to the end if it is never closed), else up to the next '$'. */
static polar_span ans_box_content(polar_span s) {
    int depth = 0;
    size_t i;
    while (s.length && ans_is_space(s.text[0])) s = ans_from(s, 1);
    if (!s.length || s.text[0] != '{') {
        size_t dollar = ans_find(s, "$");
        return ans_trim(ans_slice(s, 0, dollar == ANS_NONE ? s.length : dollar));
    }
    for (i = 0; i < s.length; i++) {
        if (s.text[i] == '\\') i++; /* a brace after a backslash does not count */
        else if (s.text[i] == '{') depth++;
        else if (s.text[i] == '}' && --depth == 0) break;
    }
    return ans_trim(ans_slice(s, 1, MIN(i, s.length)));
}

/* The last box of any spelling; several boxes in a sentence are not joined. */
static int ans_extract_box(polar_span s, polar_span *out) {
    size_t box = ans_find_last(s, "oxed{", 0), frame = ans_find_last(s, "\\fbox{", 0), bare;
    if (box == ANS_NONE && frame == ANS_NONE) {
        bare = ans_find_last(s, "\\boxed ", 0);
        if (bare == ANS_NONE) return 0;
        *out = ans_box_content(ans_from(s, bare + 6));
    } else if (box == ANS_NONE || (frame != ANS_NONE && frame > box)) *out = ans_box_content(ans_from(s, frame + 5));
    else *out = ans_box_content(ans_from(s, box + 4));
    return 1;
}

/* The first sentence of a text: up to a line end or a full stop outside of formulas, braces and environments,
 * or up to a comma that goes on in words ("5, which is prime"). */
static polar_span ans_sentence(polar_span s) {
    int depth = 0, dollar = 0, value = 0; /* value: something before could be one */
    for (size_t i = 0; i < s.length; i++) {
        char c = s.text[i], next = i + 1 < s.length ? s.text[i + 1] : ' ';
        if (ans_at(s, i, "\\begin{", 0)) depth++;
        if (ans_at(s, i, "\\end{", 0)) depth--;
        if (ans_at(s, i, "\\[", 0) || ans_at(s, i, "\\(", 0)) dollar = 1;
        if (ans_at(s, i, "\\]", 0) || ans_at(s, i, "\\)", 0)) dollar = 0;
        value |= ans_is_digit(c) || c == '$';
        if (c == '\\') {
            i++;
            continue;
        }
        if (c == '{') depth++;
        if (c == '}') depth--;
        if (c == '$' && next != '$') dollar = !dollar && ans_find(ans_from(s, i + 1), "$") != ANS_NONE;
        if (depth > 0 || dollar) continue;
        if (c == '\n' || ans_at(s, i, "<|", 0) || (c == '.' && ans_is_space(next))) return ans_slice(s, 0, i);
        if (c == ',' && next == ' ' && i + 3 < s.length && ans_is_letter(s.text[i + 2]) &&
            ans_is_letter(s.text[i + 3]) && value && !ans_at(s, i + 2, "and ", 0) && !ans_at(s, i + 2, "or ", 0))
            return ans_slice(s, 0, i);
    }
    return s;
}

/* "$5$ because ..." is the formula; "$28$ percent" and "$5 per day" stay. */
static polar_span ans_leading_formula(polar_span s) {
    const char *close = ans_starts(s, "\\(") ? "\\)" : ans_starts(s, "\\[") ? "\\]" : ans_starts(s, "$$") ? "$$" : "$";
    size_t open = strlen(close), end;
    int words = 0;
    if (s.length <= open || (s.text[0] != '$' && !ans_starts(s, "\\(") && !ans_starts(s, "\\["))) return s;
    if ((end = ans_find(ans_from(s, open), close)) == ANS_NONE) return s;
    for (size_t i = 2 * open + end; i < s.length; i++)
        words += ans_is_space(s.text[i]) && i + 1 < s.length && ans_is_letter(s.text[i + 1]);
    if (ans_find(ans_from(s, 2 * open + end), " not ") != ANS_NONE) words = 3; /* $4$, not $8$ */
    return words > 2 ? ans_slice(s, open, open + end) : s;
}

/* What is said to be the answer before "is the answer": the formula at the end, or the last clause without the
 * words before the first value ("So 5 apples"). */
static polar_span ans_clause_before(polar_span s) {
    size_t start = 0;
    s = ans_trim(s);
    if (ans_ends(s, "$") && s.length > 1) {
        size_t open = ans_find_last(ans_slice(s, 0, s.length - 1), "$", 0);
        if (open != ANS_NONE) return ans_slice(s, open + 1, s.length - 1);
    }
    if (ans_ends(s, "\\)")) return ans_after_last(ans_slice(s, 0, s.length - 2), "\\(");
    for (size_t i = 0; i + 1 < s.length; i++)
        if (s.text[i] == '\n' || (strchr(",.!", s.text[i]) && s.text[i] && ans_is_space(s.text[i + 1]))) start = i + 1;
    s = ans_trim(ans_from(s, start));
    for (;;) { /* drop leading words of two letters and more, but not the last */
        size_t n = 0;
        while (n < s.length && ans_is_letter(s.text[n])) n++;
        if (n < 2 || n == s.length || s.text[n] != ' ') return s;
        s = ans_trim(ans_from(s, n));
    }
}

/* yes, no, true or false after the last "is ", for "the statement is true". */
static int ans_extract_statement(polar_span s, polar_span *out) {
    static const char *const words[] = {"yes", "no", "true", "false"};
    size_t at = ans_find_last(s, "is ", 0), first = ANS_NONE;
    if (ans_find(s, "statement") == ANS_NONE || at == ANS_NONE) return 0;
    s = ans_from(s, at + 3);
    for (int i = 0; i < COUNT(words); i++)
        for (size_t k = 0; k < s.length && k < first; k++)
            if (ans_at(s, k, words[i], 1) && (!k || !ans_is_letter(s.text[k - 1]))) {
                *out = ans_slice(s, k, k + strlen(words[i]));
                first = k;
            }
    return first != ANS_NONE;
}

/* A sentence that says what the answer is, in front of the phrase ("so 5 is the answer") or behind it. */
static int ans_extract_phrase(polar_span s, polar_span *out) {
    static const char *const before[] = {"is the ans", "is our ans"};
    static const char *const after[] = {"answer is", "answer:", "answer :", "option is", "choice is"};
    size_t best = ANS_NONE, skip = 0;
    for (int i = 0; i < COUNT(before); i++) {
        size_t at = ans_find_last(s, before[i], 1);
        if (at == ANS_NONE || ans_at(s, at + 10, "wer is", 1) || ans_at(s, at + 10, "wer:", 1)) continue;
        *out = ans_tidy(ans_clause_before(ans_slice(s, 0, at)));
        if (out->length) return 1;
    }
    for (int i = 0; i < COUNT(after); i++) {
        size_t at = ans_find_last(s, after[i], 1);
        if (at != ANS_NONE && (best == ANS_NONE || at > best)) best = at, skip = strlen(after[i]);
    }
    if (best != ANS_NONE) {
        s = ans_from(s, best + skip);
        while (s.length && (ans_is_space(s.text[0]) || strchr(":*", s.text[0]))) s = ans_from(s, 1);
        if (ans_at(s, 0, "choice ", 1) || ans_at(s, 0, "option ", 1)) s = ans_from(s, 7);
        *out = ans_tidy(ans_leading_formula(ans_tidy(ans_sentence(s))));
        return out->length > 0;
    }
    return ans_extract_statement(s, out);
}

/* A formula has no word of three letters outside of commands, and is no half sentence between two prices. */
static int ans_is_formula(polar_span s) {
    int letters = 0, others = 0;
    s = ans_trim(s);
    if (!s.length || s.length > ANS_TEXT || strchr("=+-<>", s.text[s.length - 1])) return 0;
    for (size_t i = 0; i < s.length; i++) {
        if (s.text[i] == '\\') {
            int text = ans_at(s, i, "\\text", 0) || ans_at(s, i, "\\mbox", 0) || ans_at(s, i, "\\begin", 0) ||
                       ans_at(s, i, "\\end", 0) || ans_at(s, i, "\\operatorname", 0) || ans_at(s, i, "\\math", 0);
            others = 1;
            for (i++; i + 1 < s.length && ans_is_letter(s.text[i]) && ans_is_letter(s.text[i + 1]);) i++;
            if (text)
                while (i + 1 < s.length && s.text[i] != '}') i++;
            letters = 0;
        } else if (!ans_is_letter(s.text[i])) others |= !ans_is_space(s.text[i]), letters = 0;
        else if (++letters == 3) return 0;
    }
    return others || s.length == 1 || s.text[0] < 'a'; /* "is", "to" are no formulas; "AB" is */
}

/* The last pair of dollars with a formula inside. Prices make pairs uncertain, so several are tried. */
static size_t ans_last_dollars(polar_span s, polar_span *out) {
    size_t end = ans_find_last(s, "$", 0);
    for (int tries = 0; tries < 8 && end != ANS_NONE; tries++) {
        size_t start = ans_find_last(ans_slice(s, 0, end), "$", 0);
        if (start == ANS_NONE) break;
        *out = ans_slice(s, start + 1, end);
        if (!(start && s.text[start - 1] == '\\') && ans_is_formula(*out)) return start;
        end = start;
    }
    return ANS_NONE;
}

/* The last formula in any kind of delimiters. */
static int ans_extract_formula(polar_span s, polar_span *out) {
    static const char *const pairs[][2] = {{"\\(", "\\)"}, {"\\[", "\\]"}};
    size_t best = ans_last_dollars(s, out);
    for (int i = 0; i < COUNT(pairs); i++) {
        size_t start = ans_find_last(s, pairs[i][0], 0), end;
        if (start == ANS_NONE || (best != ANS_NONE && start < best) || (start && s.text[start - 1] == '\\')) continue;
        end = ans_find(ans_from(s, start + 2), pairs[i][1]);
        *out = ans_slice(s, start + 2, end == ANS_NONE ? s.length : start + 2 + end);
        best = start;
    }
    if (best != ANS_NONE) *out = ans_tidy(*out);
    return best != ANS_NONE && out->length;
}

/* am, p.m. and the like. */
static int ans_is_half_day(polar_span s) {
    return ans_is_any(s, "am pm a.m p.m a.m. p.m. noon midnight");
}

/* --- the last value
 * A response without any mark ends with its answer more often than not, in words: "... so she pays $4.50 in total."
 * What is taken is the last run between words that has a digit, whole: 2^8, 5 3/4, (3, -4), x = \frac{1}{2}; with the
 * unit or multiplier behind it. */

static const char *const ans_text_commands[] = {"\\text{",   "\\textbf{", "\\mbox{",
                                                "\\textit{", "\\mathrm{", "\\textrm{"};

/* 1 if letters at a place stand in the braces of a command that is no text. */
static int ans_is_argument(polar_span s, size_t at) {
    if (at < 2 || s.text[at - 1] != '{') return 0;
    for (int i = 0; i < COUNT(ans_text_commands); i++)
        if (ans_ends(ans_slice(s, 0, at), ans_text_commands[i])) return 0;
    return s.text[at - 2] == '}' || ans_is_letter(s.text[at - 2]);
}

/* A text command with words: its whole length, 0 for others. */
static size_t ans_text_command(polar_span s, size_t at) {
    for (int i = 0; i < COUNT(ans_text_commands); i++)
        if (ans_at(s, at, ans_text_commands[i], 0)) {
            const size_t close = ans_find(ans_slice(s, at, MIN(at + 256, s.length)), "}");
            return close == ANS_NONE ? 0 : close + 1;
        }
    return 0;
}

/* Length of the word at a place, 0 for names of functions and what belongs to formulas: letters behind a backslash
 * or in the argument of a command, one letter, exponents such as 1e6. */
static size_t ans_prose_word(polar_span s, size_t at) {
    static const char names[] = "sin cos tan cot sec csc log ln exp sqrt frac pi arcsin arccos arctan sinh cosh tanh "
                                "max min gcd lcm cis mod infty cbrt binom";
    size_t n = 0;
    if (at && (ans_is_letter(s.text[at - 1]) || s.text[at - 1] == '\\')) return 0;
    while (at + n < s.length && ans_is_letter(s.text[at + n])) n++;
    if (n && s.text[at] >= 'a' && ans_is_any(ans_slice(s, at, at + n), names)) return 0;
    if (ans_is_argument(s, at)) return 0;
    if (n == 2 && ans_at(s, at, "to ", 0) && at > 1 && ans_is_digit(s.text[at - 2]) && at + 3 < s.length &&
        ans_is_digit(s.text[at + 3]))
        return 0; /* 3 to 1 */
    if (n && at > 1 && s.text[at - 1] == '\'' && ans_is_letter(s.text[at - 2])) return n; /* It's */
    if (n == 1 && strchr("aAI", s.text[at]) && (!at || ans_is_space(s.text[at - 1])) && at + 2 < s.length &&
        s.text[at + 1] == ' ' && (ans_is_digit(s.text[at + 2]) || ans_is_letter(s.text[at + 2])))
        return 1; /* the article */
    if (n == 2 && at && ans_is_digit(s.text[at - 1]) && s.text[at] != 'p' && s.text[at] != 'a') return 2;
    return n > 1 ? n : 0;
}

/* What ends a run besides words: the end of a line or sentence; a list of them inside brackets does not. */
static size_t ans_run_break(polar_span s, size_t at) {
    const char c = s.text[at], next = at + 1 < s.length ? s.text[at + 1] : ' ';
    if (c == '!' && at && ans_is_digit(s.text[at - 1]) && at + 2 < s.length && s.text[at + 2] >= 'a') return 0; /* 5! */
    if (c == '\n' || c == ';' || (strchr(".?!", c) && c && ans_is_space(next))) return 1;
    if (ans_at(s, at, ">>", 0) || ans_at(s, at, "<|", 0) || ans_at(s, at, "\xe2\x80\x94", 0)) return 2;
    if (c == '-' && at && ans_is_digit(s.text[at - 1]) && ans_is_digit(next)) { /* pages 10-12, but 7-4 = 3 */
        size_t i = at + 1;
        while (i < s.length && ans_is_digit(s.text[i])) i++;
        return i + 1 >= s.length || !(s.text[i] == ' ' && strchr("=+-*/", s.text[i + 1]));
    }
    return 0;
}

/* The last run with a digit. */
static int ans_last_run(polar_span s, size_t *start, size_t *end) {
    size_t from = 0;
    int digits = 0, found = 0;
    for (size_t i = 0, n; i <= s.length; i += MAX(n, 1)) {
        n = i < s.length ? ans_prose_word(s, i) : 1;
        if (!n) n = ans_text_command(s, i);
        if (!n) n = ans_run_break(s, i);
        if (!n) {
            digits |= ans_is_digit(s.text[i]) || ans_at(s, i, "\xc2\xbd", 0) || ans_at(s, i, "\xcf\x80", 0) ||
                      ans_at(s, i, "\xc2\xbc", 0) || ans_at(s, i, "\xc2\xbe", 0) || ans_at(s, i, "\\pi", 0);
            continue;
        }
        if (digits) *start = from, *end = i, found = 1;
        digits = 0;
        from = i + n;
    }
    return found;
}

/* Units and multipliers right behind a value: "cm", "miles per hour", "million", "p.m.". Returns where they end. */
static size_t ans_behind_value(polar_span s, size_t at) {
    int per = 1;
    for (;;) {
        size_t i = at, n = 0;
        int exponent, plural;
        size_t unused;
        polar_span word;
        while (i < s.length && s.text[i] == ' ') i++;
        if (ans_text_command(s, i)) { /* \text{ cm} */
            const polar_span content =
                ans_trim(ans_slice(s, i + 1 + ans_find(ans_from(s, i), "{"), i + ans_text_command(s, i) - 1));
            if (!ans_find_unit(content, &exponent) && !ans_is_half_day(content)) return at;
            at = i + ans_text_command(s, i);
            continue;
        }
        while (i + n < s.length && ans_is_letter(s.text[i + n])) n++;
        word = ans_slice(s, i, i + n);
        if (n > 1 && (ans_is_half_day(word) || ans_number_word_at(s, i, &plural, &unused).kind >= WORD_HUNDRED ||
                      ans_is_any(word, "square cubic sq cu percent degrees degree celsius fahrenheit")))
            at = i + n;
        else if ((n > 1 || (n && i && s.text[i - 1] == '/')) && per && ans_find_unit(word, &exponent) &&
                 !ans_is_any(word, "in")) {
            at = i + n;
            per = 0;
            while (at < s.length && (unsigned char)s.text[at] >= 128) at++; /* cm\u00b2 */
            if (ans_at(s, at, "^", 0)) at += 2;
        } else if (!per && ans_is_any(word, "per")) at = i + n, per = 1;
        else if (!per && !n && i < s.length && s.text[i] == '/') at = i + 1, per = 1;
        else return at;
    }
}

/* 1 if brackets, braces and environments of a text are all closed. */
static int ans_is_closed(polar_span s) {
    int depth = 0;
    for (size_t i = 0; i < s.length; i++) {
        depth += (s.text[i] && strchr("([{", s.text[i])) - (s.text[i] && strchr(")]}", s.text[i]));
        depth += ans_at(s, i, "\\begin{", 0) - ans_at(s, i, "\\end{", 0);
    }
    return depth == 0;
}

/* The last value of a text, with the unit behind it. Parts of a compound ("2 hours and 15 minutes") belong together. */
static int ans_extract_number(polar_span s, polar_span *out) {
    size_t start, end, before_start, before_end;
    polar_span value;
    if (!ans_last_run(s, &start, &end)) return 0;
    end = MAX(end, ans_behind_value(s, end));
    for (int part = 0; part < 4 && ans_last_run(ans_slice(s, 0, start), &before_start, &before_end); part++) {
        const polar_span between = ans_trim(ans_slice(s, ans_behind_value(s, before_end), start));
        if (ans_behind_value(s, before_end) == before_end || (between.length && !ans_is_any(between, "and ,"))) break;
        start = before_start;
    }
    value = ans_trim(ans_slice(s, start, end));
    if (!ans_is_closed(value)) value = ans_after_last(value, "=");
    if (ans_starts(value, "- ") || ans_starts(value, "* ")) value = ans_from(value, 2); /* the mark of a list */
    for (size_t n = 0; n != value.length && value.length <= ANS_TEXT;) {
        n = value.length;
        value = ans_tidy(value);
        if (value.length && strchr("*`>=~_", value.text[0])) value = ans_from(value, 1);
        if (value.length && strchr("*`<_=+-", value.text[value.length - 1])) value.length--;
        if (ans_ends(value, ")") && ans_find(value, "(") == ANS_NONE && ans_find(value, "[") == ANS_NONE)
            value.length--;
        if (ans_starts(value, "(") && ans_find(value, ")") == ANS_NONE && ans_find(value, "]") == ANS_NONE)
            value = ans_from(value, 1);
        value = ans_trim(value);
    }
    *out = value;
    return value.length > 0;
}

/* 1 if no line has a word outside of commands but "and" and "or". */
static int ans_is_formulas(polar_span s) {
    for (size_t i = 0, n; i < s.length; i += MAX(n, 1)) {
        const size_t command = ans_text_command(s, i);
        n = command ? command : ans_prose_word(s, i);
        if (n && !command && !ans_is_any(ans_slice(s, i, i + n), "and or")) return 0;
    }
    return 1;
}

/* The last line of a response that has formulas only; more lines if a bracket or matrix reaches over them. */
static int ans_extract_line(polar_span s, polar_span *out) {
    size_t line;
    if (s.length > ANS_TEXT || !ans_is_formulas(s)) return 0;
    s = ans_trim(s);
    line = s.length;
    do {
        line = ans_find_last(ans_slice(s, 0, line), "\n", 0);
        *out = line == ANS_NONE ? s : ans_from(s, line + 1);
    } while (line != ANS_NONE && !ans_is_closed(*out));
    *out = ans_tidy(*out);
    return out->length > 0;
}

/* An answer that was marked may be a sentence: "She has 11 plums". Its only value is the answer, unless words before it
 * say more than that. */
static polar_span ans_only_value(polar_span s) {
    static const char stop[] =
        "all no not less more least most than except between above below under over minus plus times half root log "
        "negative twice double triple thrice square cube divided to or and if when where option choice choices for any "
        "every infinitely true false yes none "
        "january february march april may june july august september october november december monday tuesday "
        "wednesday thursday friday saturday sunday jan feb mar apr jun jul aug sep oct nov dec";
    size_t start, end, word = 0, i;
    polar_span value;
    if (s.length > ANS_TEXT || !ans_last_run(s, &start, &end)) return s;
    i = ans_text_command(s, 0) ? ans_find(s, "{") + 1 : 0;
    while (i < s.length && ans_is_space(s.text[i])) i++;
    if (!ans_prose_word(s, i)) return s;
    for (i = 0; i < s.length; i++) {
        const size_t n = ans_prose_word(s, i);
        if ((i < start || i >= end) && ans_is_digit(s.text[i])) return s; /* another value */
        if (!n) continue;
        if (i < start) {
            int plural;
            size_t unused;
            const int kind = ans_number_word_at(s, i, &plural, &unused).kind;
            if (ans_is_any(ans_slice(s, i, i + n), stop) || (kind != WORD_NONE && kind != WORD_ARTICLE)) return s;
            word++;
        }
        i += n - 1;
    }
    return word && ans_extract_number(s, &value) ? value : s;
}

/* Place of the last "####" that is not part of a longer row of marks. */
static size_t ans_find_hashes(polar_span s) {
    for (size_t at = s.length; at != ANS_NONE;) {
        at = ans_find_last(ans_slice(s, 0, at), "####", 0);
        if (at == ANS_NONE || !(at && s.text[at - 1] == '#')) return at;
        while (at && s.text[at - 1] == '#') at--;
    }
    return ANS_NONE;
}

/* The rest of the line after a marker that announces the answer; of its formulas the box. A line in the middle of
 * a response that has a box elsewhere is a heading. */
static int ans_extract_marker(polar_span s, polar_span *out) {
    static const char *const markers[] = {"####", "# Answer", "\nA:"};
    for (int i = 0; i < COUNT(markers); i++) {
        size_t at = i ? ans_find_last(s, markers[i], 0) : ans_find_hashes(s), end;
        polar_span rest;
        if (at == ANS_NONE) continue;
        rest = ans_trim(ans_from(s, at + strlen(markers[i])));
        while (rest.length && (ans_is_space(rest.text[0]) || rest.text[0] == ':')) rest = ans_from(rest, 1);
        if (ans_extract_box(rest, out)) return 1;
        end = ans_find(rest, "\\begin{") == 0 ? ANS_NONE : ans_find(rest, "\n");
        if (end != ANS_NONE && ans_extract_box(s, out)) continue;
        *out = ans_tidy(ans_slice(rest, 0, end == ANS_NONE ? rest.length : end));
        if (ans_find(*out, "nswer is") != ANS_NONE) ans_extract_phrase(*out, out);
        if (out->length) return 1;
    }
    return 0;
}

/* Where the response goes on with another question: a line that begins like one. */
static size_t ans_next_question(polar_span s) {
    static const char *const heads[] = {"\nQuestion:", "\nQ:", "\nProblem:"};
    size_t first = ANS_NONE;
    for (int i = 0; i < COUNT(heads); i++) {
        const size_t at = ans_find(s, heads[i]);
        if (at < first) first = at;
    }
    return first;
}

/* What a response marks as its answer, looked for behind the last "Therefore" first: what comes before it is
 * reasoning. */
static int ans_extract_marked(polar_span all, polar_span *out) {
    polar_span rest = ans_after_last(all, "herefore");
    if (!ans_trim(rest).length) rest = all;
    if (!ans_extract_marker(rest, out) && !ans_extract_box(rest, out) && !ans_extract_phrase(rest, out) &&
        !ans_extract_box(all, out))
        return 0;
    *out = ans_only_value(*out);
    return 1;
}

/* The forms in the order of how surely they mean the answer. */
polar_span answer_extract(const char *response, size_t length) {
    polar_span all = ans_span(response, length), rest, out;
    size_t question;
    if (!response || !length) return ans_span(response, 0);
    if (length > ANS_RESPONSE) all = ans_from(all, length - ANS_RESPONSE);
    rest = ans_after_last(all, "</think>");
    if (ans_trim(rest).length) all = rest;
    question = ans_next_question(all);
    if (question != ANS_NONE && ans_extract_marked(ans_slice(all, 0, question), &out)) return out;
    if (ans_extract_marked(all, &out)) return out;
    rest = ans_after_last(all, "herefore");
    if (!ans_trim(rest).length) rest = all;
    if (ans_extract_formula(rest, &out) || ans_extract_line(all, &out) || ans_extract_number(rest, &out) ||
        ans_extract_formula(all, &out) || ans_extract_number(all, &out))
        return out;
    return ans_span(response, 0);
}

/* 1 if a text has lines outside of matrices and their like. */
static int ans_has_lines(polar_span s) {
    int depth = 0;
    for (size_t i = 0; i < s.length; i++) {
        depth += ans_at(s, i, "\\begin{", 0) - ans_at(s, i, "\\end{", 0);
        if (s.text[i] == '\n' && !depth && !(i && s.text[i - 1] == '\\')) return 1;
    }
    return 0;
}

/* "9 (apples)" is 9; a text without any of the marks of a solution is the answer itself. */
polar_span answer_reference(const char *solution, size_t length) {
    polar_span s = ans_span(solution, length), out;
    size_t open;
    if (!solution || !length) return ans_span(solution, 0);
    s = ans_trim(s);
    if (ans_has_lines(s) || s.length > ANS_TEXT || ans_find(s, "oxed") != ANS_NONE ||
        ans_find(s, "####") != ANS_NONE)
        return answer_extract(solution, length);
    open = ans_find(s, " (");
    if (open != ANS_NONE && open && ans_is_digit(s.text[open - 1]) && ans_ends(s, ")") && s.length > open + 3 &&
        ans_is_letter(s.text[open + 2]) && ans_is_letter(s.text[open + 3]))
        s = ans_slice(s, 0, open);
    out = ans_tidy(s);
    return out.length ? out : s;
}

int answer_flags(const char *question, size_t length) {
    polar_span s = ans_span(question, length);
    if (!question) return 0;
    if (s.length > ANS_RESPONSE) s.length = ANS_RESPONSE;
    return ans_find(s, "ind the") != ANS_NONE || (ans_find(s, "all") != ANS_NONE && ans_find(s, "separate") != ANS_NONE)
               ? ANSWER_SETS
               : 0;
}

/* --- the work of one comparison --- */

/* A natural number in the pool: limbs at, at+1, ... at+n-1, least significant first, without leading zeros.
 * n < 0: too large or too costly, which spreads through all operations as NaN does. */
typedef struct natural {
    int at, n;
} natural;

typedef struct ans_token {
    const char *at; /* in the text that is read, or a constant */
    uint16_t length;
    uint8_t kind, id;
    uint8_t spaced; /* a space stands before it */
    uint8_t repeat; /* NUMBER: digits of the period that \overline marks after it */
    uint8_t upright; /* LETTER: in \text{} or \mathrm{} */
    uint8_t money;   /* NUMBER: a sign of dollars stands before it */
} ans_token;

typedef struct ans_node {
    uint8_t op, flags, relation; /* relation: the sign before this operand of a RELATION */
    uint8_t negative, height;    /* the value is -num/den; height of the tree below */
    int16_t first, last, next, n; /* children; next one of the same parent; number of children */
    int id;                      /* function, brackets, columns */
    uint64_t name;               /* of a symbol */
    natural num, den;
    double value; /* of a NUMBER, as near as a double comes */
} ans_node;

typedef struct ans_side {
    char text[ANS_TEXT * 4]; /* cleaned */
    size_t length;
    ans_token tokens[ANS_TOKENS + 1];
    int n_tokens;
    int balanced;  /* brackets and braces */
    int ambiguous; /* "1,000" or "2e-3" occurred: another reading exists */
    int basis;     /* which of the unit vectors i, j, k occur, as bits */
    char parameter; /* a letter declared to be a whole number, or 0 */
    int root;      /* node, 0 if it is no formula */
} ans_side;

typedef struct ans_work {
    int64_t budget;
    int pool_used, n_nodes;
    /* the reader */
    ans_side *side;
    ans_token *tokens;
    int at, stop, depth, failed;
    int plain; /* the other reading */
    int bars;  /* absolute values open around this place */
    int inner; /* brackets and braces open around it: there letters are no units */
    int has_i; /* the letter i occurs */
    char index; /* the letter that counts in the sum being read, or 0 */
    /* evaluation */
    int probe;        /* which values the symbols take */
    int sign;         /* of \pm */
    int in_angle;     /* inside a trigonometric function, where 30^\circ is pi/6 */
    int n_bound;      /* variables of sums */
    uint64_t bound_name[8];
    double bound_value[8];
    int level; /* of ans_same */
    int in_units; /* both values being compared have units */
    ans_side pred, gold;
    char scratch[ANS_TEXT * 4]; /* a text before it is rewritten */
    ans_node nodes[ANS_NODES];
    uint32_t pool[ANS_POOL];
} ans_work;

/* Pays for work; 0 when nothing is left, and the answer will be "different". */
static int ans_pay(ans_work *w, int64_t cost) {
    if (w->budget < 0) return 0;
    w->budget -= cost;
    return w->budget >= 0;
}

/* --- exact integers --- */

static const natural nat_unknown = {0, -1};

/* Zeroed limbs at the end of the pool. They are never given back: a comparison is short. */
static natural nat_new(ans_work *w, int n) {
    natural b;
    if (n > ANS_LIMBS || w->pool_used + n > ANS_POOL || !ans_pay(w, n / 4)) return nat_unknown;
    b.at = w->pool_used;
    b.n = n;
    w->pool_used += n;
    memset(w->pool + b.at, 0, (size_t)n * sizeof *w->pool);
    return b;
}

/* Without leading zeros, as all results are. */
static natural nat_trim(const ans_work *w, natural b) {
    while (b.n > 0 && !w->pool[b.at + b.n - 1]) b.n--;
    return b;
}

static natural nat_from(ans_work *w, uint64_t v) {
    natural b = nat_new(w, 2);
    if (b.n < 0) return b;
    w->pool[b.at] = (uint32_t)v;
    w->pool[b.at + 1] = (uint32_t)(v >> 32);
    return nat_trim(w, b);
}

/* Limb i, 0 beyond the end. */
static uint32_t nat_limb(const ans_work *w, natural b, int i) {
    return i < b.n ? w->pool[b.at + i] : 0;
}

static int nat_is_one(const ans_work *w, natural b) {
    return b.n == 1 && w->pool[b.at] == 1;
}

/* -1, 0, 1 */
static int nat_compare(const ans_work *w, natural a, natural b) {
    if (a.n != b.n) return a.n < b.n ? -1 : 1;
    for (int i = a.n - 1; i >= 0; i--)
        if (w->pool[a.at + i] != w->pool[b.at + i]) return w->pool[a.at + i] < w->pool[b.at + i] ? -1 : 1;
    return 0;
}

/* Sum, by school arithmetic with a 64-bit carry. */
static natural nat_add(ans_work *w, natural a, natural b) {
    uint64_t carry = 0;
    natural r;
    if (a.n < 0 || b.n < 0) return nat_unknown;
    r = nat_new(w, MAX(a.n, b.n) + 1);
    for (int i = 0; i < r.n; i++, carry >>= 32) {
        carry += (uint64_t)nat_limb(w, a, i) + nat_limb(w, b, i);
        w->pool[r.at + i] = (uint32_t)carry;
    }
    return r.n < 0 ? r : nat_trim(w, r);
}

/* a - b, for a >= b. */
static natural nat_subtract(ans_work *w, natural a, natural b) {
    uint64_t borrow = 0;
    natural r;
    if (a.n < 0 || b.n < 0) return nat_unknown;
    r = nat_new(w, a.n);
    for (int i = 0; i < r.n; i++) {
        uint64_t d = (uint64_t)nat_limb(w, a, i) - nat_limb(w, b, i) - borrow;
        w->pool[r.at + i] = (uint32_t)d;
        borrow = d >> 63;
    }
    return r.n < 0 ? r : nat_trim(w, r);
}

/* Product, by rows: the numbers are too short for anything faster to pay. */
static natural nat_multiply(ans_work *w, natural a, natural b) {
    natural r;
    if (a.n < 0 || b.n < 0) return nat_unknown;
    r = nat_new(w, a.n && b.n ? a.n + b.n : 0);
    if (r.n <= 0 || !ans_pay(w, (int64_t)a.n * b.n / 4)) return r.n ? nat_unknown : r;
    for (int i = 0; i < a.n; i++) {
        uint64_t carry = 0;
        for (int k = 0; k < b.n; k++, carry >>= 32) {
            carry += (uint64_t)w->pool[a.at + i] * w->pool[b.at + k] + w->pool[r.at + i + k];
            w->pool[r.at + i + k] = (uint32_t)carry;
        }
        w->pool[r.at + i + b.n] = (uint32_t)carry;
    }
    return nat_trim(w, r);
}

/* b = b * factor + term in place, b has `room` limbs in the pool. */
static natural nat_append(ans_work *w, natural b, int room, uint32_t factor, uint32_t term) {
    uint64_t carry = term;
    for (int i = 0; i < b.n; i++, carry >>= 32) {
        carry += (uint64_t)w->pool[b.at + i] * factor;
        w->pool[b.at + i] = (uint32_t)carry;
    }
    if (!carry) return b;
    if (b.n >= room) return nat_unknown;
    w->pool[b.at + b.n++] = (uint32_t)carry;
    return b;
}

/* base^exponent */
static natural nat_power(ans_work *w, natural base, uint32_t exponent) {
    natural r = nat_from(w, 1);
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) r = nat_multiply(w, r, base);
        if (exponent > 1) base = nat_multiply(w, base, base);
    }
    return r;
}

/* The product lo (lo+1) ... hi. */
static natural nat_product(ans_work *w, uint32_t lo, uint32_t hi) {
    natural r = nat_new(w, ANS_LIMBS);
    if (r.n < 0) return r;
    w->pool[r.at] = 1;
    r.n = 1;
    for (uint32_t i = lo; i <= hi && r.n > 0 && i - lo < 1000; i++)
        r = ans_pay(w, r.n / 4 + 1) ? nat_append(w, r, ANS_LIMBS, i, 0) : nat_unknown;
    if (hi >= lo + 1000) return nat_unknown;
    if (r.n > 0) w->pool_used = r.at + r.n;
    return r;
}

/* b = mantissa * 2^exponent with a mantissa of the top 96 bits, rounded. */
static double nat_double(const ans_work *w, natural b, int *exponent) {
    double m = 0;
    int low = MAX(b.n - 3, 0);
    for (int i = b.n - 1; i >= low; i--) m = m * 4294967296.0 + w->pool[b.at + i];
    *exponent = 32 * low;
    return m;
}

/* num / den as a double; infinite or 0 beyond its range. */
static double nat_ratio(const ans_work *w, natural num, natural den) {
    int e, f;
    double n = nat_double(w, num, &e), d = nat_double(w, den, &f);
    return ldexp(n / d, e - f);
}

/* --- complex numbers with an error bound ---
 * err bounds the distance from the true value, so that "is it zero?" has an answer after cancellation: the sum
 * of what the operands bring and a few roundings. Magnitudes are |re| + |im|. */

#define ANS_PI 3.14159265358979323846
#define ANS_EPS 2.3e-16

typedef struct cx {
    double re, im, err;
} cx;

/* Magnitude for error bounds, within a factor of 1.5 of the true one. */
static double cx_size(cx z) {
    return fabs(z.re) + fabs(z.im);
}

static cx cx_make(double re, double im, double err) {
    cx z;
    z.re = re;
    z.im = im;
    z.err = err;
    return z;
}

static cx cx_real(double x) {
    return cx_make(x, 0, 0);
}

static cx cx_nan(void) {
    return cx_real(NAN);
}

static int cx_finite(cx z) {
    return z.re - z.re == 0 && z.im - z.im == 0 && z.err - z.err == 0;
}

/* The first error term is what the operands bring, the second the rounding of this operation. */
static cx cx_add(cx a, cx b) {
    cx r = cx_make(a.re + b.re, a.im + b.im, 0);
    r.err = a.err + b.err + ANS_EPS * cx_size(r);
    return r;
}

static cx cx_negate(cx a) {
    return cx_make(-a.re, -a.im, a.err);
}

static cx cx_subtract(cx a, cx b) {
    return cx_add(a, cx_negate(b));
}

/* |ab - a'b'| <= |a| err(b) + |b| err(a), and four roundings. */
static cx cx_multiply(cx a, cx b) {
    double m = cx_size(a), n = cx_size(b);
    return cx_make(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re,
                   m * b.err + n * a.err + 4 * ANS_EPS * m * n);
}

static cx cx_scale(cx a, double factor) {
    return cx_multiply(a, cx_real(factor));
}

/* 1/b = conj(b) / |b|^2, after division by a power of the size that keeps the square in range. */
static cx cx_divide(cx a, cx b) {
    double m = cx_size(b), u = b.re / m, v = b.im / m, s = u * u + v * v;
    cx inverse = cx_make(u / s / m, -v / s / m, 0);
    inverse.err = b.err / m * (2 / m) + 4 * ANS_EPS * (1 / m);
    if (b.re == 0 && b.im == 0) return cx_nan();
    return cx_multiply(a, inverse);
}

/* Multiplying by i is exact. */
static cx cx_times_i(cx a) {
    return cx_make(-a.im, a.re, a.err);
}

/* e^z = e^re (cos im + i sin im). The relative error grows with the absolute error of z. */
static cx cx_exp(cx z) {
    double m = exp(z.re);
    if (!(fabs(z.im) < 1e6) || !(z.re < 700)) return cx_nan();
    return cx_make(m * cos(z.im), m * sin(z.im), m * (2 * z.err + 8 * ANS_EPS * (1 + cx_size(z))));
}

/* A rounding error must not decide on which side of the cut along the negative axis a number lies. */
static cx cx_on_axis(cx z) {
    if (fabs(z.im) <= 4 * z.err || fabs(z.im) <= 1e-14 * fabs(z.re)) z.im = 0;
    return z;
}

/* Principal branch: the imaginary part is in (-pi, pi]. */
static cx cx_log(cx z) {
    double m = hypot(z.re, z.im), l;
    if (!(m > 1e-300) || !(m < 1e300)) return cx_nan();
    z = cx_on_axis(z);
    l = log(m);
    return cx_make(l, z.im == 0 && z.re > 0 ? 0 : atan2(z.im, z.re),
                   2 * z.err / m + 4 * ANS_EPS * (1 + fabs(l)));
}

/* Principal root, real part >= 0, from sqrt((|z| + |re|) / 2), which does not cancel. */
static cx cx_sqrt(cx z) {
    double m, a, b, size;
    z = cx_on_axis(z);
    m = hypot(z.re, z.im);
    a = sqrt((m + fabs(z.re)) / 2);
    b = a > 0 ? fabs(z.im) / (2 * a) : 0;
    size = a > 0 ? z.err / a + 4 * ANS_EPS * a : sqrt(z.err);
    return z.re >= 0 ? cx_make(a, z.im < 0 ? -b : b, size) : cx_make(b, z.im < 0 ? -a : a, size);
}

/* Whole powers by multiplication, so that 0 and negative bases need no logarithm; others by exp(b log a). */
static cx cx_power(cx a, cx b) {
    if (b.im == 0 && floor(b.re) == b.re && fabs(b.re) <= 1024) {
        cx r = cx_real(1), square = a;
        for (int n = (int)fabs(b.re); n; n >>= 1, square = cx_multiply(square, square))
            if (n & 1) r = cx_multiply(r, square);
        return b.re < 0 ? cx_divide(cx_real(1), r) : r;
    }
    if (b.im == 0 && b.re == 0.5) return cx_sqrt(a);
    if (a.re == 0 && a.im == 0) return b.re > 0 ? a : cx_nan();
    return cx_exp(cx_multiply(b, cx_log(a)));
}

/* Through e^z: near 0 it cancels, and the bound says so. */
static cx cx_sinh(cx z) {
    cx e = cx_exp(z);
    return cx_scale(cx_subtract(e, cx_divide(cx_real(1), e)), 0.5);
}

static cx cx_cosh(cx z) {
    cx e = cx_exp(z);
    return cx_scale(cx_add(e, cx_divide(cx_real(1), e)), 0.5);
}

/* sin z = -i sinh(iz), cos z = cosh(iz); directly on the real axis, where no imaginary noise shall arise. */
static cx cx_sin(cx z) {
    if (z.im != 0) return cx_negate(cx_times_i(cx_sinh(cx_times_i(z))));
    if (!(fabs(z.re) < 1e6)) return cx_nan();
    return cx_make(sin(z.re), 0, z.err + 2 * ANS_EPS * (1 + fabs(z.re)));
}

static cx cx_cos(cx z) {
    if (z.im != 0) return cx_cosh(cx_times_i(z));
    if (!(fabs(z.re) < 1e6)) return cx_nan();
    return cx_make(cos(z.re), 0, z.err + 2 * ANS_EPS * (1 + fabs(z.re)));
}

/* arcsin z = -i log(iz + sqrt(1 - z^2)) */
static cx cx_arcsin(cx z) {
    cx root = cx_sqrt(cx_subtract(cx_real(1), cx_multiply(z, z)));
    return cx_negate(cx_times_i(cx_log(cx_add(cx_times_i(z), root))));
}

/* pi/2 - arcsin z. */
static cx cx_arccos(cx z) {
    return cx_subtract(cx_make(ANS_PI / 2, 0, ANS_EPS), cx_arcsin(z));
}

/* arctan z = i/2 (log(1 - iz) - log(1 + iz)) */
static cx cx_arctan(cx z) {
    cx iz = cx_times_i(z), one = cx_real(1);
    return cx_scale(cx_times_i(cx_subtract(cx_log(cx_subtract(one, iz)), cx_log(cx_add(one, iz)))), 0.5);
}

/* Inverse hyperbolic functions by their logarithms, branches as everywhere in the literature:
 * log(z + sqrt(z^2 + 1)), log(z + sqrt(z + 1) sqrt(z - 1)), (log(1 + z) - log(1 - z)) / 2. */
static cx cx_arsinh(cx z) {
    return cx_log(cx_add(z, cx_sqrt(cx_add(cx_multiply(z, z), cx_real(1)))));
}

static cx cx_arcosh(cx z) {
    cx one = cx_real(1);
    return cx_log(cx_add(z, cx_multiply(cx_sqrt(cx_add(z, one)), cx_sqrt(cx_subtract(z, one)))));
}

static cx cx_artanh(cx z) {
    cx one = cx_real(1);
    return cx_scale(cx_subtract(cx_log(cx_add(one, z)), cx_log(cx_subtract(one, z))), 0.5);
}

/* Gamma(z + 1) = z!, Lanczos' approximation with g = 7; left of the axis by reflection. */
static cx cx_factorial(cx z) {
    static const double c[] = {0.99999999999980993,      676.5203681218851,     -1259.1392167224028,
                               771.32342877765313,       -176.61502916214059,   12.507343278686905,
                               -0.13857109526572012,     9.9843695780195716e-6, 1.5056327351493116e-7};
    cx sum = cx_real(c[0]), t;
    if (z.re < -0.5) { /* z! (-z)! = pi z / sin(pi z) */
        cx angle = cx_scale(z, ANS_PI);
        return cx_divide(angle, cx_multiply(cx_sin(angle), cx_factorial(cx_negate(z))));
    }
    if (!(z.re < 170)) return cx_nan();
    for (int i = 1; i < COUNT(c); i++) sum = cx_add(sum, cx_divide(cx_real(c[i]), cx_add(z, cx_real(i))));
    t = cx_add(z, cx_real(7.5));
    t = cx_exp(cx_subtract(cx_multiply(cx_add(z, cx_real(0.5)), cx_log(t)), t));
    t = cx_scale(cx_multiply(t, sum), 2.5066282746310005024); /* sqrt(2 pi) */
    t.err = MAX(t.err, 1e-13 * cx_size(t));
    return t;
}

/* --- characters to tokens ---
 * First the text is cleaned: what other writing systems have for mathematics becomes LaTeX, the marks around an
 * answer go. Then it is cut into tokens; spaces, \left, \displaystyle, $ and the braces of \text{...} vanish here,
 * so equal tokens are equal answers even where nothing can be calculated.
 *
 *     \left(\tfrac12, 1{,}000\right] \text{ cm}   ->   ( FRACTION 12 , 1{,}000 ] WORD
 *
 * Letters are the difficult part. "ab" is a product, "sinx" a function and its argument, "and" a separator, "east" a
 * word, "cm" a unit, "twelve" a number; all of them may stand in \text{} or not. A run of letters is looked up as a
 * whole first; a short one, or one that names make up but for three letters, is a formula; others are words. Which
 * words are units is decided when the operand they stand in is read. */

typedef enum ans_kind {
    T_END, T_NUMBER, T_LETTER, T_SYMBOL, T_WORD, T_CONSTANT, T_FUNCTION, T_FRACTION, T_BINOMIAL, T_ROOT, T_LARGE,
    T_CHARACTER, /* id: one of + - * / : ^ _ ! ' | ( ) [ ] { } & */
    T_OPEN_SET, T_CLOSE_SET, T_OPEN_ANGLE, T_CLOSE_ANGLE, T_FLOOR, T_CLOSE_FLOOR, T_CEILING, T_CLOSE_CEILING,
    T_OPEN_BAR, T_CLOSE_BAR, T_SEPARATOR, T_RELATION, T_UNION, T_INTERSECTION, T_WITHOUT, T_PLUS_MINUS, T_DEGREE,
    T_PERCENT, T_CHOOSE, T_OVER, T_MODULUS, T_QUALIFIER, T_BASIS, T_ROW, T_BEGIN, T_FINISH,
    /* never become tokens: */
    T_NOTHING, T_FONT, T_OVERLINE, T_DEGREE_SIGN, T_CURRENCY
} ans_kind;

enum { SEPARATE_COMMA, SEPARATE_AND, SEPARATE_OR };
enum { REL_NONE, REL_EQ, REL_NE, REL_LT, REL_LE, REL_GT, REL_GE, REL_IN, REL_TO, REL_LIKE, REL_ABOUT };
enum { CONST_PI, CONST_INFINITY, CONST_EMPTY, CONST_REALS, CONST_E, CONST_I };
enum { ENV_PLAIN, ENV_MATRIX, ENV_DETERMINANT, ENV_ARRAY, ENV_CASES };
enum { LARGE_SUM, LARGE_PRODUCT, LARGE_INTEGRAL, LARGE_OTHER };

typedef enum ans_function {
    F_SIN, F_COS, F_TAN, F_COT, F_SEC, F_CSC, F_ARCSIN, F_ARCCOS, F_ARCTAN, F_ARCCOT, F_ARCSEC, F_ARCCSC,
    F_SINH, F_COSH, F_TANH, F_COTH, F_SECH, F_CSCH, F_ARSINH, F_ARCOSH, F_ARTANH,
    F_LN, F_LG, F_EXP, F_MAX, F_MIN, F_GCD, F_LCM, F_RE, F_IM, F_ARG, F_SGN, F_DET, F_ABS, F_SQRT,
    F_FLOOR, F_CEILING, F_FACTORIAL, F_DOUBLE_FACTORIAL, F_BINOMIAL, F_PERMUTATION, F_MODULUS, F_CUBE_ROOT, F_CIS,
    F_CONJUGATE
} ans_function;

typedef struct ans_name {
    const char *names; /* one or several, with spaces between them */
    uint8_t kind, id;
    uint8_t bare; /* 1: known without a backslash too; 2: there only as a whole word; 3: only before a bracket */
} ans_name;

/* LaTeX commands, and bare words that mean them. */
static const ans_name ans_names[] = {
    {"frac dfrac tfrac cfrac", T_FRACTION, 0, 1}, {"sfrac nicefrac", T_FRACTION, 0, 0}, {"binom", T_BINOMIAL, 0, 1},
    {"dbinom tbinom", T_BINOMIAL, 0, 0}, {"choose", T_CHOOSE, 0, 0}, {"over", T_OVER, 0, 0}, {"pmod", T_MODULUS, 1, 0},
    {"bmod mod", T_MODULUS, 0, 0}, {"sqrt", T_ROOT, 0, 1}, {"surd", T_ROOT, 0, 0}, {"sin", T_FUNCTION, F_SIN, 1},
    {"cos", T_FUNCTION, F_COS, 1}, {"tan", T_FUNCTION, F_TAN, 1}, {"cot", T_FUNCTION, F_COT, 1},
    {"sec", T_FUNCTION, F_SEC, 1}, {"csc", T_FUNCTION, F_CSC, 1}, {"arcsin", T_FUNCTION, F_ARCSIN, 1},
    {"arccos", T_FUNCTION, F_ARCCOS, 1}, {"arctan", T_FUNCTION, F_ARCTAN, 1}, {"arccot", T_FUNCTION, F_ARCCOT, 1},
    {"arcsec", T_FUNCTION, F_ARCSEC, 1}, {"arccsc", T_FUNCTION, F_ARCCSC, 1}, {"asin", T_FUNCTION, F_ARCSIN, 2},
    {"acos", T_FUNCTION, F_ARCCOS, 2}, {"atan", T_FUNCTION, F_ARCTAN, 2}, {"sinh", T_FUNCTION, F_SINH, 1},
    {"cosh", T_FUNCTION, F_COSH, 1}, {"tanh", T_FUNCTION, F_TANH, 1}, {"coth", T_FUNCTION, F_COTH, 1},
    {"sech", T_FUNCTION, F_SECH, 1}, {"csch", T_FUNCTION, F_CSCH, 1}, {"arcsinh arsinh", T_FUNCTION, F_ARSINH, 1},
    {"arccosh arcosh", T_FUNCTION, F_ARCOSH, 1}, {"arctanh artanh", T_FUNCTION, F_ARTANH, 1},
    {"asinh", T_FUNCTION, F_ARSINH, 2}, {"acosh", T_FUNCTION, F_ARCOSH, 2}, {"atanh", T_FUNCTION, F_ARTANH, 2},
    {"log ln", T_FUNCTION, F_LN, 1}, {"lg", T_FUNCTION, F_LG, 0}, {"exp", T_FUNCTION, F_EXP, 1},
    {"max", T_FUNCTION, F_MAX, 1}, {"min", T_FUNCTION, F_MIN, 0}, {"gcd", T_FUNCTION, F_GCD, 1},
    {"lcm", T_FUNCTION, F_LCM, 1}, {"factorial", T_FUNCTION, F_FACTORIAL, 2}, {"nCr", T_FUNCTION, F_BINOMIAL, 2},
    {"nPr", T_FUNCTION, F_PERMUTATION, 2}, {"cbrt", T_FUNCTION, F_CUBE_ROOT, 2}, {"cis", T_FUNCTION, F_CIS, 1},
    {"min", T_FUNCTION, F_MIN, 3}, {"mod", T_FUNCTION, F_MODULUS, 3}, {"det", T_FUNCTION, F_DET, 3},
    {"Re", T_FUNCTION, F_RE, 0}, {"Im", T_FUNCTION, F_IM, 0}, {"arg", T_FUNCTION, F_ARG, 0},
    {"sgn", T_FUNCTION, F_SGN, 1}, {"det", T_FUNCTION, F_DET, 0}, {"abs", T_FUNCTION, F_ABS, 2},
    {"floor", T_FUNCTION, F_FLOOR, 2}, {"ceil", T_FUNCTION, F_CEILING, 2}, {"sum", T_LARGE, LARGE_SUM, 0},
    {"prod", T_LARGE, LARGE_PRODUCT, 0}, {"int iint oint", T_LARGE, LARGE_INTEGRAL, 0},
    {"lim bigcup bigcap", T_LARGE, LARGE_OTHER, 0}, {"pi", T_CONSTANT, CONST_PI, 1},
    {"infty", T_CONSTANT, CONST_INFINITY, 1}, {"infinity inf oo", T_CONSTANT, CONST_INFINITY, 2},
    {"emptyset varnothing oslash", T_CONSTANT, CONST_EMPTY, 0}, {"le leq leqslant", T_RELATION, REL_LE, 0},
    {"ge geq geqslant", T_RELATION, REL_GE, 0}, {"lt", T_RELATION, REL_LT, 0}, {"gt", T_RELATION, REL_GT, 0},
    {"ne neq", T_RELATION, REL_NE, 0}, {"approx simeq", T_RELATION, REL_ABOUT, 0}, {"in", T_RELATION, REL_IN, 0},
    {"to rightarrow", T_RELATION, REL_TO, 0},
    {"equiv cong sim mapsto perp parallel Rightarrow implies iff leftrightarrow propto", T_RELATION, REL_LIKE, 0},
    {"subset subseteq", T_RELATION, REL_LIKE, 0}, {"cup", T_UNION, 0, 0}, {"cap", T_INTERSECTION, 0, 0},
    {"setminus backslash", T_WITHOUT, 0, 0}, {"pm", T_PLUS_MINUS, 0, 0}, {"mp", T_PLUS_MINUS, 1, 0},
    {"cdot times ast bullet", T_CHARACTER, '*', 0}, {"div", T_CHARACTER, '/', 0}, {"prime", T_CHARACTER, '\'', 0},
    {"mid vert Vert", T_CHARACTER, '|', 0}, {"lvert lVert", T_OPEN_BAR, 0, 0}, {"rvert rVert", T_CLOSE_BAR, 0, 0},
    {"lfloor", T_FLOOR, 0, 0}, {"rfloor", T_CLOSE_FLOOR, 0, 0}, {"lceil", T_CEILING, 0, 0},
    {"rceil", T_CLOSE_CEILING, 0, 0}, {"langle", T_OPEN_ANGLE, 0, 0}, {"rangle", T_CLOSE_ANGLE, 0, 0},
    {"lbrace", T_OPEN_SET, 0, 0}, {"rbrace", T_CLOSE_SET, 0, 0}, {"lbrack", T_CHARACTER, '[', 0},
    {"rbrack", T_CHARACTER, ']', 0}, {"lparen", T_CHARACTER, '(', 0}, {"rparen", T_CHARACTER, ')', 0},
    {"item", T_SEPARATOR, SEPARATE_COMMA, 0}, {"for where", T_QUALIFIER, 0, 2}, {"forall", T_QUALIFIER, 0, 0},
    {"and", T_SEPARATOR, SEPARATE_AND, 2}, {"or", T_SEPARATOR, SEPARATE_OR, 2},
    {"land wedge", T_SEPARATOR, SEPARATE_AND, 0}, {"lor vee", T_SEPARATOR, SEPARATE_OR, 0}, {"begin", T_BEGIN, 0, 0},
    {"end", T_FINISH, 0, 0}, {"circ degree", T_DEGREE_SIGN, 0, 0}, {"overline", T_OVERLINE, 0, 0},
    {"text textrm textit textsf texttt textnormal mbox hbox emph mathrm mathit mathsf", T_FONT, 1, 0},
    {"mathtt operatorname rm bf it mathcal", T_FONT, 1, 0}, {"textbf mathbf boldsymbol bm bold", T_FONT, 5, 0},
    {"mathbb", T_FONT, 2, 0},
    {"underline overrightarrow overleftrightarrow overarc bar tilde dot ddot boxed fbox", T_FONT, 0, 0},
    {"ensuremath", T_FONT, 0, 0}, {"widehat hat vec", T_FONT, 4, 0},
    {"tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge sf tt", T_NOTHING, 0, 0},
    {"num scriptscriptstyle displaystyle textstyle scriptstyle limits middle big Big", T_NOTHING, 0, 0},
    {"bigg Bigg quad qquad thinspace medspace thickspace negthinspace negmedspace", T_NOTHING, 0, 0},
    {"negthickspace enspace noindent hline mathstrut strut nonumber newline angle", T_NOTHING, 0, 0},
    {"measuredangle euro pounds", T_NOTHING, 0, 0},
    {"about around roughly approx exactly only is approximately", T_NOTHING, 0, 2},
    {"left bigl Bigl biggl", T_NOTHING, 1, 0}, {"right bigr Bigr biggr", T_NOTHING, 2, 0}, {"dollar", T_CURRENCY, 0, 0},
    {"alpha beta gamma delta theta lambda sigma omega", T_SYMBOL, 0, 1},
};

/* Words that stand for something else. */
typedef struct ans_word {
    const char *word, *meaning;
} ans_word;

static const ans_word ans_words[] = {
    {"yes", "true"}, {"no", "false"}, {"mon", "monday"},
    {"tue", "tuesday"}, {"tues", "tuesday"}, {"wed", "wednesday"}, {"thu", "thursday"}, {"thur", "thursday"},
    {"thurs", "thursday"}, {"fri", "friday"}, {"sat", "saturday"}, {"sun", "sunday"},
};

/* Signs of other alphabets as LaTeX, by code point. */
typedef struct ans_sign {
    uint16_t first, last;
    const char *meaning;
} ans_sign;

static const ans_sign ans_signs[] = {
    {0xa0, 0xa0, " "}, {0xa3, 0xa3, ""}, {0xa5, 0xa5, ""}, {0xad, 0xad, ""}, {0xb0, 0xb0, "^\\circ "},
    {0xb1, 0xb1, "\\pm "}, {0xb5, 0xb5, "\\mu "}, {0xb7, 0xb7, "\\cdot "}, {0xba, 0xba, "^\\circ "},
    {0xbc, 0xbc, "\\frac{1}{4}"}, {0xbd, 0xbd, "\\frac{1}{2}"}, {0xbe, 0xbe, "\\frac{3}{4}"},
    {0xd7, 0xd7, "\\times "}, {0xf7, 0xf7, "/"}, {0x2000, 0x200a, " "}, {0x200b, 0x200f, ""}, {0x2010, 0x2015, "-"},
    {0x2018, 0x2019, "'"}, {0x201c, 0x201d, ""}, {0x2022, 0x2022, "\\cdot "}, {0x2026, 0x2026, "..."},
    {0x202f, 0x202f, " "}, {0x2032, 0x2032, "'"}, {0x2033, 0x2033, "''"}, {0x2044, 0x2044, "/"}, {0x205f, 0x205f, " "},
    {0x2060, 0x2060, ""}, {0x20a0, 0x20bf, ""}, {0x2102, 0x2102, "\\mathbb{C}"}, {0x2103, 0x2103, "^\\circ C"},
    {0x2109, 0x2109, "^\\circ F"}, {0x2115, 0x2115, "\\mathbb{N}"}, {0x211a, 0x211a, "\\mathbb{Q}"},
    {0x211d, 0x211d, "\\mathbb{R}"}, {0x2124, 0x2124, "\\mathbb{Z}"}, {0x2126, 0x2126, "\\Omega "},
    {0x2150, 0x2150, "\\frac{1}{7}"}, {0x2151, 0x2151, "\\frac{1}{9}"}, {0x2152, 0x2152, "\\frac{1}{10}"},
    {0x2153, 0x2153, "\\frac{1}{3}"}, {0x2154, 0x2154, "\\frac{2}{3}"}, {0x2155, 0x2155, "\\frac{1}{5}"},
    {0x2156, 0x2156, "\\frac{2}{5}"}, {0x2157, 0x2157, "\\frac{3}{5}"}, {0x2158, 0x2158, "\\frac{4}{5}"},
    {0x2159, 0x2159, "\\frac{1}{6}"}, {0x215a, 0x215a, "\\frac{5}{6}"}, {0x215b, 0x215b, "\\frac{1}{8}"},
    {0x215c, 0x215c, "\\frac{3}{8}"}, {0x215d, 0x215d, "\\frac{5}{8}"}, {0x215e, 0x215e, "\\frac{7}{8}"},
    {0x2192, 0x2192, "\\to "}, {0x2200, 0x2200, "\\forall "}, {0x2205, 0x2205, "\\emptyset "},
    {0x2208, 0x2208, "\\in "}, {0x220f, 0x220f, "\\prod "}, {0x2211, 0x2211, "\\sum "}, {0x2212, 0x2212, "-"},
    {0x2213, 0x2213, "\\mp "}, {0x2215, 0x2215, "/"}, {0x2216, 0x2216, "\\setminus "}, {0x2217, 0x2217, "*"},
    {0x2219, 0x2219, "\\cdot "}, {0x221a, 0x221a, "\\sqrt "}, {0x221b, 0x221b, "\\sqrt[3]"},
    {0x221c, 0x221c, "\\sqrt[4]"}, {0x221e, 0x221e, "\\infty "}, {0x2220, 0x2220, "\\angle "},
    {0x2229, 0x2229, "\\cap "}, {0x222a, 0x222a, "\\cup "}, {0x222b, 0x222b, "\\int "}, {0x2236, 0x2236, ":"},
    {0x2248, 0x2248, "\\approx "}, {0x2260, 0x2260, "\\ne "}, {0x2261, 0x2261, "\\equiv "},
    {0x2264, 0x2264, "\\le "}, {0x2265, 0x2265, "\\ge "}, {0x22c5, 0x22c5, "\\cdot "},
    {0x2308, 0x2308, "\\lceil "}, {0x2309, 0x2309, "\\rceil "}, {0x230a, 0x230a, "\\lfloor "},
    {0x230b, 0x230b, "\\rfloor "}, {0x27e8, 0x27e8, "\\langle "}, {0x27e9, 0x27e9, "\\rangle "},
    {0x2a7d, 0x2a7d, "\\le "}, {0x2a7e, 0x2a7e, "\\ge "}, {0x3000, 0x3000, " "}, {0x3001, 0x3001, ","},
    {0x3002, 0x3002, " "}, {0x3008, 0x3008, "\\langle "}, {0x3009, 0x3009, "\\rangle "}, {0xfe63, 0xfe63, "-"},
    {0xfeff, 0xfeff, ""},
};

/* Greek letters in the order of Unicode, from alpha on; the second sigma is the one at the end of words. */
static const char *const ans_greek[] = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
};

/* Appends to the cleaned text; what does not fit is cut, and the rest is no formula any more. */
static void ans_put(ans_side *side, const char *s, size_t n) {
    const size_t room = sizeof side->text - 1 - side->length;
    if (n > room) n = room;
    memcpy(side->text + side->length, s, n);
    side->length += n;
    side->text[side->length] = 0;
}

/* x' or 30' at the end, as opposed to a quotation mark after a word or sign. */
static int ans_is_prime(polar_span s) {
    size_t n = s.length;
    if (n > 1 && s.text[n - 1] == '\'' && ans_is_digit(s.text[n - 2])) return ans_find(s, "\\circ") != ANS_NONE;
    return n > 1 && s.text[n - 1] == '\'' && ans_is_letter(s.text[n - 2]) &&
           !(n > 3 && ans_is_letter(s.text[n - 3]) && ans_is_letter(s.text[n - 4]));
}

/* Strips from both ends of the cleaned text what is no part of an answer (rule 2.1 of the answer rules: the same
 * marks as after extraction, and closing brackets in front). A point before a digit stays: ".4". */
static polar_span ans_strip(polar_span s) {
    for (;;) {
        size_t n = s.length;
        s = ans_trim(s);
        if (!s.length) return s;
        if (ans_starts(s, "\\\\")) s = ans_from(s, s.length > 2 && ans_is_letter(s.text[2]) ? 1 : 2);
        else if (ans_starts(s, "\\)") || ans_starts(s, "\\]") || ans_starts(s, "\\(") || ans_starts(s, "\\["))
            s = ans_from(s, 2);
        else if (strchr("!)]}:,#?\"'/*`", s.text[0])) s = ans_from(s, 1);
        else if (n == 2 && s.text[1] == ')' && ans_is_letter(s.text[0])) s.length--; /* a choice: "A)" */
        else if (s.text[0] == '.' && !(s.length > 1 && ans_is_digit(s.text[1]))) s = ans_from(s, 1);
        else if (ans_ends(s, "\\)") || ans_ends(s, "\\]") || ans_ends(s, "\\(") || ans_ends(s, "\\[")) s.length -= 2;
        else if (strchr("([{\\:./,#?\"';*`", s.text[s.length - 1]) && !ans_is_prime(s) && !ans_goes_on(s)) s.length--;
        if (s.length == n) return s;
    }
}

/* The character of UTF-8 at a place; 0 for what is none. Returns its bytes, 1 for what is none. */
static size_t ans_decode(polar_span s, size_t at, uint32_t *c) {
    const unsigned char first = (unsigned char)s.text[at];
    const size_t n = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    *c = first < 0x80 ? first : 0;
    if (n == 1 || first < 0xc2 || first > 0xf4 || at + n > s.length) return 1;
    *c = first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (((unsigned char)s.text[at + i] & 0xc0) != 0x80) return *c = 0, 1;
        *c = *c << 6 | ((unsigned char)s.text[at + i] & 0x3f);
    }
    return n;
}

/* The character that stands above (1) or below (2) the line, as it stands on the line; 0 for others. */
static char ans_raised(uint32_t c, int *level) {
    static const char up[] = "0i  456789+-=()n", down[] = "0123456789+-=()";
    *level = 1;
    if (c == 0xb9) return '1';
    if (c == 0xb2 || c == 0xb3) return (char)('2' + (c - 0xb2));
    if (c >= 0x2070 && c <= 0x207f && up[c - 0x2070] != ' ') return up[c - 0x2070];
    *level = 2;
    return c >= 0x2080 && c <= 0x208e ? down[c - 0x2080] : 0;
}

/* Greek letters: \alpha, \Alpha. */
static void ans_put_greek(ans_side *side, unsigned letter, int capital) {
    char name[16] = "\\";
    const size_t n = strlen(ans_greek[letter]);
    memcpy(name + 1, ans_greek[letter], n);
    if (capital) name[1] = (char)(name[1] - 'a' + 'A');
    name[n + 1] = ' ';
    ans_put(side, name, n + 2);
}

/* Writes a character that is not ASCII as LaTeX; 0 if it stays as it is: a letter of some word. */
static int ans_put_sign(ans_side *side, uint32_t c) {
    char plain = 0;
    if (c >= 0xff01 && c <= 0xff5e) plain = (char)(c - 0xfee0); /* full width */
    if (c >= 0x1d400 && c <= 0x1d6a3)
        plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(c - 0x1d400) % 52];
    if (c >= 0x1d7ce && c <= 0x1d7ff) plain = (char)('0' + (c - 0x1d7ce) % 10);
    if (plain) return ans_put(side, &plain, 1), 1;
    if (c >= 0x391 && c <= 0x3a9) return ans_put_greek(side, c - 0x391, 1), 1;
    if (c >= 0x3b1 && c <= 0x3c9) return ans_put_greek(side, c - 0x3b1, 0), 1;
    if (c >= 0x1d6a8 && c <= 0x1d7c9) { /* mathematical Greek: 25 capitals, nabla, 25 small letters, variants */
        const unsigned i = (c - 0x1d6a8) % 58;
        if (i < 25 || (i > 25 && i <= 50)) return ans_put_greek(side, i < 25 ? i : i - 26, i < 25), 1;
    }
    for (int i = 0; i < COUNT(ans_signs); i++)
        if (c >= ans_signs[i].first && c <= ans_signs[i].last)
            return ans_put(side, ans_signs[i].meaning, strlen(ans_signs[i].meaning)), 1;
    return 0;
}

/* 1 if a dollar sign at this place stands for money: escaped, or without a partner, before a number. */
static int ans_is_money(polar_span s, size_t at, int partners) {
    const int escaped = at && s.text[at - 1] == '\\';
    for (at++; at < s.length && (s.text[at] == ' ' || s.text[at] == '-' || s.text[at] == '\\'); at++) continue;
    return (escaped || partners % 2) && at < s.length && (ans_is_digit(s.text[at]) || s.text[at] == '.');
}

/* Copies the text with Unicode signs replaced and currency signs, control characters and quotes removed; a sign of
 * dollars before a number becomes \dollar. What is still not ASCII stays, and is a letter of some word. */
static void ans_clean(ans_side *side, polar_span s) {
    polar_span t;
    int raised = 0, partners = 0; /* level of the characters being read; dollar signs that are not escaped */
    side->length = 0;
    for (size_t i = 0; i < s.length; i++) partners += s.text[i] == '$' && !(i && s.text[i - 1] == '\\');
    for (size_t i = 0, n; i < s.length; i += n) {
        uint32_t c;
        int level;
        char up, space = ' ';
        n = ans_decode(s, i, &c);
        if ((up = ans_raised(c, &level)) == 0) level = 0;
        if (raised && level != raised) ans_put(side, "}", 1);
        if (level && level != raised) ans_put(side, level == 1 ? "^{" : "_{", 2);
        raised = level;
        if (up) ans_put(side, &up, 1);
        else if (c >= 128 && ans_put_sign(side, c)) continue;
        else if (c == '\\' && i + 1 < s.length && s.text[i + 1] == '$') continue; /* the sign comes next */
        else if (c == '$' || (c && c < 32)) {
            if (c == '$' && side->length >= 2 && !memcmp(side->text + side->length - 2, "US", 2)) side->length -= 2;
            ans_put(side, &space, 1);
            if (c == '$' && ans_is_money(s, i, partners)) ans_put(side, "\\dollar ", 8);
        } else if (c != '"' && c != 127) ans_put(side, s.text + i, n);
    }
    if (raised) ans_put(side, "}", 1);
    t = ans_strip(ans_span(side->text, side->length));
    memmove(side->text, t.text, t.length);
    side->text[side->length = t.length] = 0;
}

/* --- the text rewritten ---
 * Notations that are easier to change in the text than to read: words for numbers, repeating decimals, groups of digits
 * with other separators, commands about looks, set phrases. The result is LaTeX again.
 *
 *     two and a half     ->  2\frac{1}{2}        0.1\dot{6}       ->  0.1\overline{6}
 *     5 dozen            ->  5*12                4'000'000        ->  4000000
 *     \SI{3}{cm}         ->  3\text{ cm}         no solution      ->  \emptyset */

typedef struct ans_rewriter {
    ans_side *side; /* gets the result */
    polar_span s;
    size_t at;
    int plain;      /* the other reading: quarters are coins */
    int except;     /* \{ is open until the end: "all reals except 2" */
} ans_rewriter;

/* Where the next word of a phrase begins: after spaces, one hyphen, or a tie; 0 if none follows. */
static size_t ans_next_word(polar_span s, size_t at) {
    size_t i = at;
    while (i < s.length && (s.text[i] == ' ' || s.text[i] == '~')) i++;
    if (i == at && i < s.length && s.text[i] == '-') i++;
    return i > at && i < s.length && ans_is_letter(s.text[i]) ? i : 0;
}

/* Appends a text, or a number. */
static void ans_put_text(ans_side *side, const char *text) {
    ans_put(side, text, strlen(text));
}

static void ans_put_number(ans_side *side, uint64_t v) {
    char digits[24];
    int n = COUNT(digits);
    do digits[--n] = (char)('0' + v % 10);
    while ((v /= 10) != 0);
    ans_put(side, digits + n, sizeof digits - (size_t)n);
}

static void ans_put_fraction(ans_side *side, uint64_t num, uint64_t den) {
    ans_put_text(side, "\\frac{");
    ans_put_number(side, num);
    ans_put_text(side, "}{");
    ans_put_number(side, den);
    ans_put_text(side, "}");
}

/* 'd' if what was written ends with a digit, '}' with a group, else 0: what the next word may multiply. Spaces and the
 * beginning of a text command do not count. */
static char ans_tail(const ans_side *side) {
    polar_span s = ans_trim(ans_span(side->text, side->length));
    static const char *const commands[] = {"\\text{", "\\mathrm{", "\\mbox{", "\\,", "\\ ", "~", "-"};
    for (int i = 0; i < COUNT(commands); i++)
        if (ans_ends(s, commands[i])) {
            s.length -= strlen(commands[i]);
            s = ans_trim(s);
            i = -1;
        }
    if (!s.length) return 0;
    return ans_is_digit(s.text[s.length - 1]) ? 'd' : s.text[s.length - 1] == '}' ? '}' : 0;
}

/* Whole numbers: "two hundred and five", "twenty-one", "a million". Returns the end of what was read, 0 for none. */
static size_t ans_read_count(polar_span s, size_t at, uint64_t *value) {
    uint64_t total = 0, current = 0, highest = 0;
    size_t end = 0;
    int last = WORD_NONE;
    while (at != ANS_NONE) {
        int plural;
        size_t stop, next;
        ans_number_word w = ans_number_word_at(s, at, &plural, &stop);
        int fits =
            (w.kind == WORD_ONE && (last == WORD_NONE || last >= WORD_HUNDRED || (last == WORD_TEN && w.value < 10))) ||
            (w.kind == WORD_TEN && (last == WORD_NONE || last >= WORD_HUNDRED));
        if (last == WORD_ARTICLE) fits = 0;
        if (fits) current += w.value;
        else if (w.kind == WORD_HUNDRED && last != WORD_NONE && last < WORD_HUNDRED && !plural)
            current *= 100;
        else if (w.kind == WORD_HUNDRED && last == WORD_ARTICLE) current = 100;
        else if (w.kind == WORD_SCALE && last != WORD_NONE && !plural && (!highest || w.value < highest)) {
            total += MAX(current, 1) * w.value;
            highest = w.value;
            current = 0;
        } else if (w.kind == WORD_DOZEN && last != WORD_NONE && !total) current = MAX(current, 1) * 12;
        else if (w.kind == WORD_ARTICLE && last == WORD_NONE) current = 1;
        else if (ans_at(s, at, "and ", 1) && (last == WORD_HUNDRED || last == WORD_SCALE)) {
            at += 4;
            w = ans_number_word_at(s, at, &plural, &stop);
            if (w.kind != WORD_ONE && w.kind != WORD_TEN) break;
            continue;
        } else break;
        if (w.kind == WORD_ARTICLE) {
            ans_number_word after;
            next = ans_next_word(s, stop);
            after = ans_number_word_at(s, next, &plural, &next);
            if (after.kind < WORD_HUNDRED || after.kind > WORD_HALF) break;
        }
        last = w.kind;
        end = stop;
        *value = total + current;
        next = ans_next_word(s, stop);
        at = next ? next : ANS_NONE;
    }
    return end;
}

/* A fraction behind `count`: "thirds" of "two thirds", "half"; returns its end, 0 for none. */
static size_t ans_read_part(polar_span s, size_t at, uint64_t count, uint64_t *den) {
    int plural;
    size_t end;
    const ans_number_word w = ans_number_word_at(s, at, &plural, &end);
    if (w.kind != WORD_PART && w.kind != WORD_HALF) return 0;
    if (w.kind == WORD_PART && count != 1 && !plural) return 0; /* twenty-fifth */
    *den = w.value;
    return end;
}

/* "a half", "half", "two thirds" as a fraction below a whole number; returns its end, 0 for none. */
static size_t ans_read_share(polar_span s, size_t at, uint64_t *num, uint64_t *den) {
    int plural;
    size_t end, next;
    if (ans_number_word_at(s, at, &plural, &end).kind == WORD_HALF) return *num = 1, *den = 2, end;
    if ((end = ans_read_count(s, at, num)) == 0 || (next = ans_next_word(s, end)) == 0) return 0;
    return ans_read_part(s, next, *num, den);
}

/* What multiplies the number before it, in digits or as a group: 6.5 thousand, 5 dozen, 3 tenths, 6 and a half. */
static size_t ans_rewrite_multiplier(ans_rewriter *x, char tail) {
    int plural;
    size_t end;
    uint64_t num, den;
    const ans_number_word w = ans_number_word_at(x->s, x->at, &plural, &end);
    if (w.kind >= WORD_HUNDRED && w.kind <= WORD_DOZEN) {
        ans_put_text(x->side, "*");
        ans_put_number(x->side, w.value);
        return end;
    }
    if (w.kind == WORD_PART && w.value == 4 && w.word[0] == 'q' && tail == 'd') { /* coins, or fourths */
        x->side->ambiguous = 1;
        if (x->plain) return 0;
    }
    if ((w.kind == WORD_PART || w.kind == WORD_HALF) && tail == 'd') {
        ans_put_text(x->side, "*");
        ans_put_fraction(x->side, 1, w.value);
        return end;
    }
    if (tail == 'd' && ans_at(x->s, x->at, "and ", 1) && (end = ans_read_share(x->s, x->at + 4, &num, &den)) != 0) {
        ans_put_fraction(x->side, num, den);
        return end;
    }
    return 0;
}

/* Words that are signs: "five squared", "minus two", "3 to 4"; they need a number on the sides where it stands. */
static size_t ans_rewrite_sign(ans_rewriter *x, size_t end, char tail) {
    static const struct {
        const char *word, *sign;
        int before, after; /* a number must stand there */
    } signs[] = {{"squared", "^2", 1, 0}, {"cubed", "^3", 1, 0}, {"factorial", "!", 1, 0}, {"percent", "\\%", 1, 0},
                 {"pct", "\\%", 1, 0}, {"degrees", "^\\circ ", 1, 0}, {"degree", "^\\circ ", 1, 0}, {"to", ":", 1, 1},
                 {"negative", "-", 0, 1}, {"minus", "-", 0, 1}, {"mod", "\\bmod ", 1, 1}};
    size_t next = end, unused;
    uint64_t value;
    while (next < x->s.length && strchr(" }$-\\", x->s.text[next])) next++;
    for (int i = 0; i < COUNT(signs); i++) {
        const size_t n = strlen(signs[i].word);
        if (end - x->at != n || !ans_at(x->s, x->at, signs[i].word, 1) || (signs[i].before && tail != 'd')) continue;
        unused = signs[i].after && next < x->s.length ? ans_read_count(x->s, next, &value) : 0;
        if (signs[i].after && !unused &&
            !(next < x->s.length && (ans_is_digit(x->s.text[next]) || x->s.text[next] == '.')))
            continue;
        ans_put_text(x->side, signs[i].sign);
        return end;
    }
    return 0;
}

/* Set phrases. The longest first where one begins another. */
static size_t ans_rewrite_phrase(ans_rewriter *x) {
    static const ans_word phrases[] = {
        {"no real solutions", "\\emptyset "}, {"no real solution", "\\emptyset "}, {"no solutions", "\\emptyset "},
        {"no solution", "\\emptyset "}, {"the empty set", "\\emptyset "}, {"empty set", "\\emptyset "},
        {"all real numbers", "\\mathbb{R}"}, {"all reals", "\\mathbb{R}"}, {"does not exist", "\\text{dne}"},
        {"dne", "\\text{dne}"}, {"per cent", "\\%"}, {"except", "\\setminus\\{"}, {"approx.", ""},
    };
    for (int i = 0; i < COUNT(phrases); i++) {
        const size_t end = x->at + strlen(phrases[i].word);
        if (!ans_at(x->s, x->at, phrases[i].word, 1) || (end < x->s.length && ans_is_letter(x->s.text[end]))) continue;
        if (phrases[i].meaning[0] == '\\' && phrases[i].meaning[1] == 's') { /* except, behind the real numbers */
            if (!ans_ends(ans_trim(ans_span(x->side->text, x->side->length)), "\\mathbb{R}")) continue;
            x->except = 1;
        }
        ans_put_text(x->side, phrases[i].meaning);
        return end;
    }
    return 0;
}

/* Codes of currencies in front of a number go. */
static size_t ans_rewrite_currency(ans_rewriter *x, size_t end) {
    static const char codes[] = "usd eur gbp inr rs jpy cny rmb aud cad chf nzd sgd hkd mxn php zar krw brl rub us";
    const polar_span word = ans_slice(x->s, x->at, end);
    size_t next = end, digit;
    if (next < x->s.length && x->s.text[next] == '.') next++;
    while (next < x->s.length && strchr(" ~", x->s.text[next])) next++;
    for (digit = next; digit < x->s.length && strchr(" ~}\\", x->s.text[digit]);) digit++; /* \text{Rs. }80 */
    if (digit >= x->s.length || !ans_is_digit(x->s.text[digit]) || !ans_is_any(word, codes)) return 0;
    if (ans_is_any(word, "usd")) ans_put_text(x->side, "\\dollar ");
    return next;
}

/* A word, whole: a number, or what changes one. Returns where to go on. */
static size_t ans_rewrite_word(ans_rewriter *x) {
    const char tail = ans_tail(x->side);
    size_t end = x->at, next, share;
    uint64_t value, num = 1, den;
    int plural;
    while (end < x->s.length && ans_is_letter(x->s.text[end])) end++;
    if (tail && (next = ans_rewrite_multiplier(x, tail)) != 0) return next;
    if ((next = ans_rewrite_sign(x, end, tail)) != 0 || (next = ans_rewrite_phrase(x)) != 0) return next;
    if ((next = ans_rewrite_currency(x, end)) != 0) return next;
    if (ans_number_word_at(x->s, x->at, &plural, &next).kind == WORD_HALF && !plural) { /* half, half a dozen */
        ans_put_fraction(x->side, 1, 2);
        share = ans_next_word(x->s, next);
        if (share && ans_at(x->s, share, "a ", 1)) {
            const ans_number_word w = ans_number_word_at(x->s, share + 2, &plural, &share);
            if (w.kind < WORD_HUNDRED || w.kind > WORD_DOZEN) return next;
            ans_put_text(x->side, "*");
            ans_put_number(x->side, w.value);
            return share;
        }
        return next;
    }
    if ((end = ans_read_count(x->s, x->at, &value)) == 0) return 0;
    next = ans_next_word(x->s, end);
    if (next && (share = ans_read_part(x->s, next, value, &den)) != 0)
        return ans_put_fraction(x->side, value, den), share;
    if (ans_number_word_at(x->s, x->at, &plural, &share).kind == WORD_ARTICLE && share == end) return 0;
    ans_put_number(x->side, value);
    if (next && ans_at(x->s, next, "and ", 1) && (share = ans_read_share(x->s, next + 4, &num, &den)) != 0)
        return ans_put_fraction(x->side, num, den), share;
    return end;
}

/* The period of a repeating decimal behind its point and digits: \overline{52}, \bar 6, \dot5\dot2, (8). Appends its
 * digits to `period` and returns where it ends, 0 without one. */
static size_t ans_read_period(polar_span s, size_t at, char *period, int capacity) {
    static const char *const open[] = {"\\overline{", "\\bar{", "\\bar ", "("};
    int n = 0, dots = 0;
    for (int i = 0; i < COUNT(open); i++)
        if (ans_at(s, at, open[i], 0)) {
            for (at += strlen(open[i]); at < s.length && ans_is_digit(s.text[at]) && n < capacity - 1; at++) {
                period[n++] = s.text[at];
                if (i == 2) break;
            }
            period[n] = 0;
            if (i == 2) return n ? at + 1 : 0;
            return n && at < s.length && s.text[at] == (i == 3 ? ')' : '}') ? at + 1 : 0;
        }
    while (n < capacity - 1 && dots < 2) { /* dots above the first and the last digit */
        const int dot = ans_at(s, at, "\\dot", 0), braced = dot && ans_at(s, at + 4, "{", 0);
        const size_t digit = at + (dot ? 4 : 0) + (size_t)(braced || (dot && ans_at(s, at + 4, " ", 0)));
        if (digit >= s.length || !ans_is_digit(s.text[digit]) || (!dot && !dots)) break;
        if (dot) dots++;
        period[n++] = s.text[digit];
        at = digit + 1 + (braced ? 1 : 0);
        if (dots == 1 && ans_find(ans_from(s, at), "\\dot") == ANS_NONE) break;
    }
    period[n] = 0;
    return dots && n ? at : 0;
}

/* "0.1666..." repeats the block that its digits show three times at the end. Length of the block, 0 without one. */
static size_t ans_shown_block(polar_span digits) {
    for (size_t block = 1; 3 * block <= digits.length; block++)
        if (!memcmp(digits.text + digits.length - 3 * block, digits.text + digits.length - 2 * block, 2 * block))
            return block;
    return 0;
}

/* Length of an ellipsis. */
static size_t ans_ellipsis(polar_span s, size_t at) {
    static const char *const dots[] = {"...", "\\ldots", "\\dots", "\\cdots"};
    for (int i = 0; i < COUNT(dots); i++)
        if (ans_at(s, at, dots[i], 0)) return strlen(dots[i]);
    return 0;
}

/* A number in digits: separators of groups that LaTeX does not know go, a period becomes \overline. */
static size_t ans_rewrite_digits(ans_rewriter *x) {
    size_t end = x->at, groups = 0, start, next, block;
    char period[64];
    while (end < x->s.length && ans_is_digit(x->s.text[end])) end++;
    if (end - x->at <= 3 && end < x->s.length && (x->s.text[end] == '\'' || x->s.text[end] == '.')) {
        const char mark = x->s.text[end];
        for (next = end; next + 3 < x->s.length && x->s.text[next] == mark && ans_is_digit(x->s.text[next + 1]) &&
                         ans_is_digit(x->s.text[next + 2]) && ans_is_digit(x->s.text[next + 3]) &&
                         !(next + 4 < x->s.length && ans_is_digit(x->s.text[next + 4]));)
            next += 4, groups++;
        if (groups >= 2 || (groups && mark == '\'')) {
            for (size_t i = x->at; i < next; i++)
                if (ans_is_digit(x->s.text[i])) ans_put(x->side, x->s.text + i, 1);
            return next;
        }
    }
    if (end >= x->s.length || x->s.text[end] != '.') return ans_put(x->side, x->s.text + x->at, end - x->at), end;
    start = ++end;
    while (end < x->s.length && ans_is_digit(x->s.text[end])) end++;
    if (end == start && ans_at(x->s, end, "..", 0)) end = start - 1; /* "3..." */
    ans_put(x->side, x->s.text + x->at, end - x->at);
    if (end < start) return end;
    next = ans_read_period(x->s, end, period, COUNT(period));
    if (!next && (groups = ans_ellipsis(x->s, end)) != 0 &&
        (block = ans_shown_block(ans_slice(x->s, start, end))) != 0 && block < sizeof period) {
        memcpy(period, x->s.text + end - block, block);
        period[block] = 0;
        next = end + groups;
    }
    if (!next) return end;
    ans_put_text(x->side, "\\overline{");
    ans_put_text(x->side, period);
    ans_put_text(x->side, "}");
    return next;
}

/* The end of a group in braces that begins at a place, 0 if there is none. */
static size_t ans_group_end(polar_span s, size_t at) {
    int depth = 0;
    for (; at < s.length; at++) {
        if (s.text[at] == '\\') at++;
        else if (s.text[at] == '{') depth++;
        else if (s.text[at] == '}' && --depth == 0) return at + 1;
        if (depth <= 0) return 0;
    }
    return 0;
}

/* Commands about looks go with their argument; \SI{3}{cm} is 3\text{ cm}. */
static size_t ans_rewrite_command(ans_rewriter *x) {
    static const char gone[] = "color textcolor colorbox phantom hphantom vphantom hspace vspace tag label";
    size_t end = x->at + 1, first, second;
    polar_span name;
    while (end < x->s.length && ans_is_letter(x->s.text[end])) end++;
    name = ans_slice(x->s, x->at + 1, end);
    if (ans_is_any(name, gone)) {
        if (end < x->s.length && x->s.text[end] == '*') end++;
        first = ans_group_end(x->s, end);
        if (first) ans_put_text(x->side, " ");
        return first;
    }
    if (!ans_is_any(name, "si qty") || (first = ans_group_end(x->s, end)) == 0 ||
        (second = ans_group_end(x->s, first)) == 0)
        return 0;
    ans_put(x->side, x->s.text + end + 1, first - end - 2);
    ans_put_text(x->side, "\\text{ ");
    ans_put(x->side, x->s.text + first + 1, second - first - 1);
    return second;
}

/* "(mod 7)" is \pmod{7}. */
static size_t ans_rewrite_modulus(ans_rewriter *x) {
    static const char *const forms[] = {"(mod ", "(\\bmod ", "(\\text{mod }", "(\\mathrm{mod} ", "(\\text{mod} "};
    for (int i = 0; i < COUNT(forms); i++)
        if (ans_at(x->s, x->at, forms[i], 0)) {
            const size_t start = x->at + strlen(forms[i]), n = ans_find(ans_from(x->s, start), ")");
            if (n == ANS_NONE) return 0;
            ans_put_text(x->side, "\\pmod{");
            ans_put(x->side, x->s.text + start, n);
            ans_put_text(x->side, "}");
            return start + n + 1;
        }
    return 0;
}

/* Rewrites the cleaned text of a side. */
static void ans_rewrite(ans_side *side, char *scratch, int plain) {
    ans_rewriter x = {side, {NULL, 0}, 0, plain, 0};
    memcpy(scratch, side->text, side->length);
    x.s = ans_span(scratch, side->length);
    side->text[side->length = 0] = 0;
    while (x.at < x.s.length) {
        const char c = x.s.text[x.at], before = x.at ? x.s.text[x.at - 1] : ' ';
        size_t next = 0;
        if (c == '\\') next = ans_rewrite_command(&x);
        else if (c == '(') next = ans_rewrite_modulus(&x);
        else if (ans_is_digit(c) && !ans_is_digit(before)) next = ans_rewrite_digits(&x);
        else if (ans_is_letter(c) && !ans_is_letter(before) && before != '\\') next = ans_rewrite_word(&x);
        if (next) x.at = next;
        else {
            size_t n = 1; /* a command or a word is copied whole */
            if (c == '\\' || ans_is_letter(c))
                while (x.at + n < x.s.length && ans_is_letter(x.s.text[x.at + n])) n++;
            ans_put(side, x.s.text + x.at, n);
            x.at += n;
        }
    }
    if (x.except) ans_put_text(side, "\\}");
}

/* State of the cutting. */
typedef struct ans_lexer {
    ans_side *side;
    polar_span s;
    size_t at;
    int plain;    /* the other reading: "1,000" is a list, "2e-3" is 2e minus 3 */
    int spaced;   /* a space was just passed */
    int braces, text_braces[16], n_text; /* open braces; levels at which text commands began */
    int matrices; /* open matrix environments: there "\\" and "&" count */
    int money;    /* a sign of dollars was just passed */
} ans_lexer;

/* Appends a token. */
static ans_token *ans_emit(ans_lexer *x, int kind, int id, const char *at, size_t length) {
    ans_token *t = &x->side->tokens[MIN(x->side->n_tokens, ANS_TOKENS)];
    t->kind = (uint8_t)kind;
    t->id = (uint8_t)id;
    t->at = at;
    t->length = (uint16_t)length;
    t->spaced = (uint8_t)x->spaced;
    t->repeat = t->upright = 0;
    t->money = (uint8_t)(kind == T_NUMBER && x->money);
    if (kind != T_CHARACTER) x->money = 0;
    x->spaced = 0;
    x->side->n_tokens++; /* beyond ANS_TOKENS the answer is refused */
    return t;
}

/* 1 inside \text{} and its like, where letters are words. */
static int ans_in_text(const ans_lexer *x) {
    return x->n_text && x->text_braces[x->n_text - 1] > 0;
}

/* A character ahead, 0 behind the end. */
static char ans_peek(const ans_lexer *x, size_t ahead) {
    return x->at + ahead < x->s.length ? x->s.text[x->at + ahead] : 0;
}

/* Length of what separates groups of three digits at this place: "," "{,}" ",\!" "\," or a space, then exactly
 * three digits; 0 if they do not follow. */
static size_t ans_group(ans_lexer *x, size_t at) {
    static const char *const marks[] = {"{,}", ",\\!", "\\,", "\\ ", "\\;", "\\!", "~", " ", ","};
    for (int i = 0; i < COUNT(marks); i++) {
        size_t n, digits = 0;
        if (!ans_at(x->s, at, marks[i], 0)) continue;
        n = strlen(marks[i]);
        while (i < 7 && at + n < x->s.length && x->s.text[at + n] == ' ') n++; /* ",\! 000" */
        while (at + n + digits < x->s.length && ans_is_digit(x->s.text[at + n + digits])) digits++;
        if (digits != 3) continue;
        if (marks[i][0] == ',' && !marks[i][1]) {
            x->side->ambiguous = 1;
            if (x->plain) continue;
        }
        return n;
    }
    return 0;
}

/* Length of an exponent such as e-7 or E23. After a whole number "e-3" may also be Euler's number minus three. */
static size_t ans_exponent(ans_lexer *x, size_t at, int point) {
    char c = at < x->s.length ? x->s.text[at] : 0, sign = at + 1 < x->s.length ? x->s.text[at + 1] : 0;
    size_t n = sign == '-' || sign == '+' ? 2 : 1, digits = 0;
    if (c != 'e' && c != 'E') return 0;
    while (at + n + digits < x->s.length && ans_is_digit(x->s.text[at + n + digits])) digits++;
    if (!digits) return 0;
    if (c == 'e' && n == 2 && !point && digits < 2) {
        x->side->ambiguous = 1;
        if (x->plain) return 0;
    }
    return n + digits;
}

/* Digits with separators of thousands, a point, a period after it, or an exponent, as one token. */
static void ans_lex_number(ans_lexer *x) {
    size_t start = x->at, n = 0, group;
    int point = 0;
    ans_token *t;
    while (ans_is_digit(ans_peek(x, n))) n++;
    if (n >= 1 && n <= 3)
        while ((group = ans_group(x, start + n)) != 0) n += group + 3;
    if (ans_peek(x, n) == '.' && ans_peek(x, n + 1) != '.') {
        point = 1;
        for (n++; ans_is_digit(ans_peek(x, n));) n++;
    }
    t = ans_emit(x, T_NUMBER, 0, x->s.text + start, n);
    if (point && ans_at(x->s, start + n, "\\overline{", 0)) {
        size_t digits = 0;
        while (ans_is_digit(ans_peek(x, n + 10 + digits))) digits++;
        if (digits && digits < 200 && ans_peek(x, n + 10 + digits) == '}') {
            t->repeat = (uint8_t)digits;
            n += 11 + digits;
        }
    } else {
        size_t exponent = ans_exponent(x, start + n, point);
        t->length = (uint16_t)(t->length + exponent);
        n += exponent;
    }
    x->at += n;
}

/* The longest bare name at the start of a run of letters; its length goes to *length. */
static const ans_name *ans_bare_name(polar_span run, size_t *length) {
    const ans_name *best = NULL;
    *length = 0;
    for (int i = 0; i < COUNT(ans_names); i++) {
        const ans_name *row = &ans_names[i];
        for (const char *name = row->bare ? row->names : ""; *name;) {
            const size_t n = strcspn(name, " ");
            size_t same = 0;
            while (same < n && same < run.length &&
                   (run.text[same] == name[same] || (row->bare == 2 && ans_lower(run.text[same]) == name[same])))
                same++;
            if (same == n && n > *length &&
                (row->bare == 1 || (n == run.length && (row->bare == 2 || run.text[n] == '(')))) {
                best = row;
                *length = n;
            }
            name += n + (name[n] == ' ');
        }
    }
    return best;
}

/* A run of letters is a formula if it is short, or if names with at most three letters between make it up, which have
 * no vowel if they are two or three: "sinxy" is one, "since" is a word. */
static int ans_is_word(polar_span run) {
    int single = 0, names = 0, vowels = 0;
    if (run.length < 4) return 0;
    if (ans_is_any(run, "pint pints cost costs tank tanks pins logs sing")) return 1;
    for (size_t i = 0; i < run.length;) {
        size_t n;
        if (ans_bare_name(ans_from(run, i), &n)) i += n, names++;
        else vowels += strchr("aeiou", run.text[i++]) != NULL, single++;
        if (single > 3) return 1;
    }
    return !names || (single > 1 && vowels);
}

/* What the word is another spelling of, or NULL. */
static const char *ans_word_meaning(polar_span run) {
    for (int i = 0; i < COUNT(ans_words); i++)
        if (strlen(ans_words[i].word) == run.length && ans_at(run, 0, ans_words[i].word, 1))
            return ans_words[i].meaning;
    return NULL;
}

/* A known name of so many letters as its token. */
static void ans_emit_name(ans_lexer *x, const ans_name *name, const char *at, size_t length) {
    if (name->kind != T_NOTHING) ans_emit(x, name->kind, name->id, at, length);
}

/* "2 x 3" and "2x10^5": the letter that was just passed is a times sign. */
static int ans_is_times(const ans_lexer *x, polar_span run) {
    const ans_token *before = x->side->n_tokens ? &x->side->tokens[MIN(x->side->n_tokens, ANS_TOKENS) - 1] : NULL;
    if (run.length != 1 || run.text[0] != 'x' || !before || before->kind != T_NUMBER) return 0;
    if (ans_at(x->s, x->at, "10^", 0)) return 1;
    return x->spaced && ans_peek(x, 0) == ' ' && ans_is_digit(ans_peek(x, 1));
}

/* Letters: words of other meaning, words, or names and single letters in a row. */
static void ans_lex_letters(ans_lexer *x) {
    size_t n = 0, i = 0, length;
    polar_span run;
    const char *meaning;
    const ans_name *name;
    while (ans_is_letter(ans_peek(x, n)) || (unsigned char)ans_peek(x, n) >= 128) n++;
    run = ans_slice(x->s, x->at, x->at + n);
    if (n == 1 && ans_lower(run.text[0]) <= 'p' && strchr("ap", ans_lower(run.text[0])) && ans_peek(x, 1) == '.' &&
        ans_lower(ans_peek(x, 2)) == 'm') { /* a.m., p.m. */
        ans_emit(x, T_WORD, 0, run.text, 3);
        x->at += ans_peek(x, 3) == '.' ? 4 : 3;
        return;
    }
    x->at += n;
    name = ans_bare_name(run, &length);
    meaning = ans_word_meaning(run);
    if (name && length == n && !(ans_in_text(x) && name->kind == T_SYMBOL)) ans_emit_name(x, name, run.text, n);
    else if (meaning && ans_is_digit(*meaning)) ans_emit(x, T_NUMBER, 0, meaning, strlen(meaning));
    else if (meaning) ans_emit(x, T_WORD, 0, meaning, strlen(meaning));
    else if (ans_is_times(x, run)) ans_emit(x, T_CHARACTER, '*', "*", 1);
    else if (ans_in_text(x) ? n > 1 : ans_is_word(run)) ans_emit(x, T_WORD, 0, run.text, n);
    else
        while (i < n) {
            name = ans_bare_name(ans_from(run, i), &length);
            if (name) ans_emit_name(x, name, run.text + i, length), i += length;
            else ans_emit(x, T_LETTER, run.text[i], run.text + i, 1)->upright = (uint8_t)ans_in_text(x), i++;
        }
}

/* Reads "{name}"; an empty span if none follows. */
static polar_span ans_lex_argument(ans_lexer *x) {
    size_t n = 0;
    if (ans_peek(x, 0) != '{') return ans_slice(x->s, x->at, x->at);
    while (x->at + n < x->s.length && x->s.text[x->at + n] != '}') n++;
    x->at += n + 1;
    return ans_slice(x->s, x->at - n, MIN(x->at - 1, x->s.length));
}

/* What a \begin{...} means. */
static int ans_environment(polar_span name) {
    if (ans_starts(name, "array")) return ENV_ARRAY;
    if (ans_starts(name, "cases")) return ENV_CASES;
    if (ans_starts(name, "vmatrix")) return ENV_DETERMINANT;
    return ans_find(name, "matrix") != ANS_NONE ? ENV_MATRIX : ENV_PLAIN;
}

/* \begin and \end of a matrix become tokens. */
static void ans_lex_environment(ans_lexer *x, int kind) {
    polar_span name = ans_lex_argument(x);
    int env = ans_environment(name);
    if (env == ENV_PLAIN) return; /* align and its like say nothing */
    x->matrices += kind == T_BEGIN ? 1 : -1;
    ans_emit(x, kind, env == ENV_DETERMINANT, "m", 1);
    if (kind == T_BEGIN && env == ENV_ARRAY && ans_peek(x, 0) == '{') {
        size_t n = 1;
        while (ans_peek(x, n) && strchr("clr| ", ans_peek(x, n))) n++;
        if (ans_peek(x, n) == '}') x->at += n + 1; /* the format of the columns */
    }
}

/* The row of a command, or NULL: then it is the name of a symbol. */
static const ans_name *ans_command(polar_span name) {
    for (int i = 0; i < COUNT(ans_names); i++)
        for (const char *one = ans_names[i].names; *one;) {
            const size_t n = strcspn(one, " ");
            if (n == name.length && !memcmp(one, name.text, n)) return &ans_names[i];
            one += n + (one[n] == ' ');
        }
    return NULL;
}

/* i, j or k that a command for vectors marks, with its braces or without, as a unit vector. */
static int ans_lex_basis(ans_lexer *x) {
    static const char *const forms[] = {"{i}", "{j}", "{k}", "{\\imath}", "{\\jmath}",
                                        "i",   "j",   "k",   "\\imath",   "\\jmath"};
    for (int i = 0; i < COUNT(forms); i++) {
        const size_t n = strlen(forms[i]);
        if (!ans_at(x->s, x->at, forms[i], 0) || (ans_is_letter(forms[i][n - 1]) && ans_is_letter(ans_peek(x, n))))
            continue;
        x->at += n;
        x->side->basis |= 1 << i % 5 % 3;
        ans_emit(x, T_BASIS, "ijk"[i % 5 % 3], &"ijk"[i % 5 % 3], 1);
        return 1;
    }
    return 0;
}

/* 1 if the group that follows is a complex number: digits and i, no other letters. */
static int ans_is_complex(const ans_lexer *x) {
    const size_t end = ans_group_end(x->s, x->at);
    int i = 0, digits = 0;
    for (size_t k = x->at; k < end; k++) {
        const char c = x->s.text[k];
        if (c == '\\' || (ans_is_letter(c) && c != 'i')) return 0;
        i |= c == 'i';
        digits |= ans_is_digit(c);
    }
    return i && digits;
}

/* Opens the group of a command whose braces do not count. */
static void ans_lex_font(ans_lexer *x, int text) {
    while (ans_peek(x, 0) == ' ') x->at++;
    if (text & 4 && ans_lex_basis(x)) return;
    text &= 3;
    if (text == 2 && ans_is_letter(ans_peek(x, 0))) { /* \mathbb Z */
        if (ans_peek(x, 0) == 'R') ans_emit(x, T_CONSTANT, CONST_REALS, "R", 1);
        else ans_emit(x, T_LETTER, ans_peek(x, 0), x->s.text + x->at, 1)->upright = 1;
        x->at++;
        return;
    }
    if (ans_peek(x, 0) != '{') return;
    if (text == 2 && ans_peek(x, 1) == 'R' && ans_peek(x, 2) == '}') { /* \mathbb{R} */
        ans_emit(x, T_CONSTANT, CONST_REALS, "R", 1);
        x->at += 3;
        return;
    }
    x->at++;
    x->braces++;
    if (x->n_text < COUNT(x->text_braces)) x->text_braces[x->n_text++] = text ? x->braces : -x->braces;
}

/* A backslash and letters. */
static void ans_lex_command(ans_lexer *x) {
    size_t n = 1;
    polar_span name;
    const ans_name *known;
    while (ans_is_letter(ans_peek(x, n))) n++;
    name = ans_slice(x->s, x->at + 1, x->at + n);
    x->at += n;
    known = ans_command(name);
    if (ans_starts(name, "var") && name.length > 4 && !known) name = ans_from(name, 3); /* \varphi is \phi */
    if (!known && (ans_starts(name, "math") || ans_starts(name, "text"))) {
        ans_lex_font(x, 1);
        return;
    }
    if (!known) {
        ans_emit(x, T_SYMBOL, 0, name.text, name.length);
        return;
    }
    switch (known->kind) {
    case T_FONT: ans_lex_font(x, known->id); break;
    case T_OVERLINE:
        if (ans_is_complex(x)) ans_emit(x, T_FUNCTION, F_CONJUGATE, name.text, name.length);
        else ans_lex_font(x, 0);
        break;
    case T_NOTHING:
        while (ans_peek(x, 0) == ' ') x->at++;
        if (ans_starts(name, "angle") && x->side->n_tokens == 1 && x->side->tokens[0].id == 'm')
            x->side->n_tokens = 0; /* m\angle B */
        if (known->id && ans_peek(x, 0) == '|') {
            ans_emit(x, known->id == 1 ? T_OPEN_BAR : T_CLOSE_BAR, 0, "|", 1);
            x->at++;
        }
        break;
    case T_BEGIN: case T_FINISH: ans_lex_environment(x, known->kind); break;
    case T_DEGREE_SIGN: ans_emit(x, T_DEGREE, 0, "o", 1); break;
    case T_CURRENCY: x->money = 1; break;
    default: ans_emit(x, known->kind, known->id, name.text, name.length);
    }
}

/* A backslash and a character that is no letter. */
static void ans_lex_escape(ans_lexer *x) {
    char c = ans_peek(x, 1);
    x->at += 2;
    if (c == '{') ans_emit(x, T_OPEN_SET, 0, "{", 1);
    else if (c == '}') ans_emit(x, T_CLOSE_SET, 0, "}", 1);
    else if (c == '%') ans_emit(x, T_PERCENT, 0, "%", 1);
    else if (c == '|') ans_emit(x, T_CHARACTER, '|', "|", 1);
    else if (c == '\\' && x->matrices > 0) ans_emit(x, T_ROW, 0, ";", 1);
    else x->spaced = 1; /* spacing: \, \; \! and a stray end of line */
}

/* "^\circ" and "^{\circ}" */
static int ans_lex_degree(ans_lexer *x) {
    static const char *const forms[] = {"^\\circ",   "^{\\circ}",   "^ \\circ",  "^{ \\circ }",
                                        "^\\degree", "^{\\degree}", "^{\\circ }"};
    for (int i = 0; i < COUNT(forms); i++)
        if (ans_at(x->s, x->at, forms[i], 0)) {
            x->at += strlen(forms[i]);
            return ans_emit(x, T_DEGREE, 0, "o", 1), 1;
        }
    return 0;
}

/* "^\prime" and "^{\prime \prime}" are ' and ''. */
static int ans_lex_primes(ans_lexer *x) {
    size_t n = 1, primes = 0;
    int group = ans_peek(x, n) == '{';
    for (n += (size_t)group;;) {
        if (ans_peek(x, n) == ' ') n++;
        else if (ans_at(x->s, x->at + n, "\\prime", 0)) n += 6, primes++;
        else break;
        if (primes && !group) break;
    }
    if (!primes || (group && ans_peek(x, n) != '}')) return 0;
    x->at += n + (size_t)group;
    while (primes--) ans_emit(x, T_CHARACTER, '\'', "'", 1);
    return 1;
}

/* Braces: those of a text command vanish. */
static void ans_lex_brace(ans_lexer *x, char c) {
    x->at++;
    if (c == '{') {
        x->braces++;
        ans_emit(x, T_CHARACTER, '{', "{", 1);
        return;
    }
    if (x->n_text && abs(x->text_braces[x->n_text - 1]) == x->braces) x->n_text--, x->spaced = 1;
    else ans_emit(x, T_CHARACTER, '}', "}", 1);
    x->braces--;
}

/* Operators of one to three characters; what has no meaning in a formula counts as a space. */
static void ans_lex_other(ans_lexer *x, char c) {
    static const ans_name two[] = {
        {"<=", T_RELATION, REL_LE, 0}, {">=", T_RELATION, REL_GE, 0}, {"!=", T_RELATION, REL_NE, 0},
        {"==", T_RELATION, REL_EQ, 0}, {"**", T_CHARACTER, '^', 0}, {"->", T_RELATION, REL_TO, 0},
        {"+-", T_PLUS_MINUS, 0, 0}, {"<", T_RELATION, REL_LT, 0}, {">", T_RELATION, REL_GT, 0},
        {"=", T_RELATION, REL_EQ, 0}, {"%", T_PERCENT, 0, 0}, {",", T_SEPARATOR, SEPARATE_COMMA, 0},
        {";", T_SEPARATOR, SEPARATE_COMMA, 0}, {"...", T_SYMBOL, 0, 0},
    };
    for (int i = 0; i < COUNT(two); i++)
        if (ans_at(x->s, x->at, two[i].names, 0)) {
            x->at += strlen(two[i].names);
            ans_emit(x, two[i].kind, two[i].id, two[i].names, strlen(two[i].names));
            return;
        }
    x->at++;
    if (c == '~' || c == '.') x->spaced = 1;
    else if (c == '&') x->matrices > 0 ? (void)ans_emit(x, T_CHARACTER, c, x->s.text + x->at - 1, 1) : (void)0;
    else ans_emit(x, T_CHARACTER, c, x->s.text + x->at - 1, 1);
}

/* Braces and brackets all have partners; half open intervals mix ( with ]. */
static int ans_is_balanced(const ans_side *side) {
    int round = 0, curly = 0, set = 0;
    for (int i = 0; i < side->n_tokens; i++) {
        const ans_token *t = &side->tokens[i];
        if (t->kind == T_OPEN_SET) set++;
        if (t->kind == T_CLOSE_SET) set--;
        if (t->kind != T_CHARACTER) continue;
        round += (t->id == '(' || t->id == '[') - (t->id == ')' || t->id == ']');
        curly += (t->id == '{') - (t->id == '}');
        if (round < 0 || curly < 0) return 0;
    }
    return !round && !curly && !set;
}

/* 1 if a token is this character. */
static int ans_is_char(const ans_token *t, char c) {
    return t->kind == T_CHARACTER && t->id == (uint8_t)c;
}

/* 1 for what opens a bracket, -1 for what closes one, else 0; bars that do not say what they are count as neither. */
static int ans_bracket(const ans_token *t) {
    if (t->kind == T_CHARACTER) return strchr("([{", t->id) ? 1 : strchr(")]}", t->id) ? -1 : 0;
    if (t->kind == T_BEGIN || t->kind == T_FINISH) return t->kind == T_BEGIN ? 1 : -1;
    if (t->kind < T_OPEN_SET || t->kind > T_CLOSE_BAR) return 0;
    return (t->kind - T_OPEN_SET) % 2 ? -1 : 1; /* they alternate in ans_kind */
}

/* 1 if "k \in Z" begins at a token: a letter, perhaps others after commas, and a set of numbers at the end. */
static int ans_declares(const ans_side *side, int at) {
    const ans_token *t = side->tokens;
    const int n = side->n_tokens;
    while (at + 1 < n && t[at].kind == T_LETTER && t[at + 1].kind == T_SEPARATOR) at += 2;
    if (at + 1 < n && t[at].kind == T_LETTER && t[n - 1].kind == T_WORD && t[n - 1].length >= 7 &&
        ans_at(ans_span(t[n - 1].at, t[n - 1].length), 0, "integer", 1))
        return 1; /* k an integer */
    return at + 3 == n && t[at].kind == T_LETTER && t[at + 1].kind == T_RELATION && t[at + 1].id == REL_IN &&
           ((t[at + 2].kind == T_LETTER && t[at + 2].upright) || t[at + 2].kind == T_CONSTANT);
}

/* The constant of an integral: "+ c" at the end is "+ C", if the letter occurs nowhere else. */
static void ans_name_constant(ans_side *side) {
    ans_token *last = &side->tokens[MAX(side->n_tokens, 1) - 1];
    if (side->n_tokens < 3 || last->kind != T_LETTER || last->id != 'c' || !ans_is_char(last - 1, '+')) return;
    for (const ans_token *t = side->tokens; t < last; t++)
        if (t->kind == T_LETTER && (t->id == 'c' || t->id == 'C')) return;
    last->id = 'C';
    last->at = "C";
}

/* Cuts off what says for which values an answer holds: "for all x", "where n is an integer", ", k \in \mathbb{Z}". A
 * letter that is declared a whole number there becomes the parameter. */
static void ans_unqualify(ans_side *side) {
    int depth = 0, cut = 0, whole = 0;
    for (int i = 1; i < side->n_tokens && !cut; i++) {
        const ans_token *t = &side->tokens[i];
        depth += ans_bracket(t - 1);
        if (depth) continue;
        if (t->kind == T_QUALIFIER ||
            (t[-1].kind == T_SEPARATOR && t[-1].id == SEPARATE_COMMA && ans_declares(side, i)))
            cut = i;
    }
    if (!cut) return;
    for (int i = cut; i < side->n_tokens; i++) {
        const ans_token *t = &side->tokens[i];
        whole |= (t->kind == T_WORD && t->length >= 7 && ans_at(ans_span(t->at, t->length), 0, "integer", 1)) ||
                 (t->kind == T_LETTER && t->upright && (t->id == 'Z' || t->id == 'N'));
        if (!side->parameter && t->kind == T_LETTER && !t->upright) side->parameter = (char)t->id;
    }
    if (!whole) side->parameter = 0;
    while (cut && side->tokens[cut - 1].kind == T_SEPARATOR) cut--;
    if (cut) side->n_tokens = cut;
}

/* Cuts the cleaned text of a side into tokens. */
static void ans_lex(ans_side *side, int plain) {
    ans_lexer x = {side, {NULL, 0}, 0, plain, 0, 0, {0}, 0, 0, 0};
    x.s = ans_span(side->text, side->length);
    side->n_tokens = side->basis = 0;
    side->parameter = 0;
    while (x.at < x.s.length && side->n_tokens < ANS_TOKENS) {
        char c = x.s.text[x.at];
        if (ans_is_space(c)) x.at++, x.spaced = 1;
        else if (ans_is_digit(c) || (c == '.' && ans_is_digit(ans_peek(&x, 1)))) ans_lex_number(&x);
        else if (ans_is_letter(c) || (unsigned char)c >= 128) ans_lex_letters(&x);
        else if (c == '\\' && ans_is_letter(ans_peek(&x, 1))) ans_lex_command(&x);
        else if (c == '\\') ans_lex_escape(&x);
        else if (c == '{' || c == '}') ans_lex_brace(&x, c);
        else if (c != '^' || (!ans_lex_degree(&x) && !ans_lex_primes(&x))) ans_lex_other(&x, c);
    }
    side->balanced = x.at >= x.s.length && !x.braces && ans_is_balanced(side);
    side->n_tokens = MIN(side->n_tokens, ANS_TOKENS);
    for (int i = 0; i < side->n_tokens; i++) /* one alone is a letter */
        if (side->tokens[i].kind == T_BASIS && !(side->basis & (side->basis - 1))) side->tokens[i].kind = T_LETTER;
    ans_unqualify(side);
    ans_name_constant(side);
    side->tokens[side->n_tokens].kind = T_END;
    side->tokens[side->n_tokens].spaced = 0;
}

/* From an answer to its tokens, in one of two readings. */
static void ans_prepare(ans_work *w, ans_side *side, polar_span s, int plain) {
    w->plain = plain;
    ans_clean(side, s);
    ans_rewrite(side, w->scratch, plain);
    ans_lex(side, plain);
}

/* --- tokens to a tree ---
 * A reader by recursive descent, one function for each line of the grammar:
 *
 *   list      item (separator item)*
 *   item      operand (relation operand)*
 *   operand   sum (union-like sum)*, without a unit at its end; or words
 *   sum       product ((+ | - | \pm) product)*
 *   product   implicit ((* | / | :) implicit)*
 *   implicit  factor factor ...                    binds tighter than a division: 1/2x is 1/(2x) but for numbers
 *   factor    atom with powers, indices, !, ', degrees
 *
 * Constant rational parts are calculated as they are built, so "2^{2005} + 1" is one node with an exact number, and a
 * tree holds operations only where a symbol, a root or a function is below. Node 0 is no node. What the reader does
 * not understand is no formula, and then equals only the same tokens.
 *
 * Where writers are ambiguous, the reading that they mean most often is taken: -2^2 is -4, 2^10 is 1024, \sqrt16 is 4,
 * \sin 2x is sin(2x), \sin(x)^2 is (sin x)^2, 3\frac12 is 3.5, (0,1) is a pair and an interval until it meets
 * one or the other. */

typedef enum ans_op {
    N_NONE, N_NUMBER, N_SYMBOL, N_CONSTANT, N_ADD, N_MULTIPLY, N_DIVIDE, N_POWER, N_NEGATE, N_PLUS_MINUS, N_CALL,
    N_ROOT,
    N_BASIS,  /* the unit vector id: i, j, k */
    N_OPAQUE, /* an unknown function of its children: f(x), a_{n+1}, limits, 12_{5} */
    N_CONGRUENCE, /* value, modulus */
    N_QUANTITY,   /* a value with a unit, num / den of the base units of the dimensions in `name`; then words */
    N_SUM,    /* variable in `name`, product if id is set: lower, upper, body */
    N_DEGREE,
    /* collections and what is no number */
    N_LIST, N_TUPLE, N_SET, N_MATRIX, N_RELATION, N_UNION, N_INTERSECTION, N_WITHOUT
} ans_op;

#define EXACT 1      /* a rational: num / den */
#define DECIMAL 2    /* was written with a point or exponent: compared with tolerance */
#define PLAIN 4      /* a number as written, not calculated */
#define PERCENT 8
#define FREE 16      /* contains a symbol that can take values */
#define BOTH_SIGNS 32 /* contains \pm */
#define APPLIED 64   /* "P(x)": a product for the reader, but also the name of a function */
#define PARTS 128    /* contains a collection: has no value */

#define ID_CAPITAL 1 /* of a SYMBOL */

/* A node without children, 0 if there are too many. */
static int ans_node_new(ans_work *w, ans_op op) {
    ans_node *n;
    if (w->n_nodes >= ANS_NODES || !ans_pay(w, 4)) {
        w->failed = 1;
        return 0;
    }
    n = &w->nodes[w->n_nodes];
    memset(n, 0, sizeof *n);
    n->op = (uint8_t)op;
    return w->n_nodes++;
}

/* Adds a child. What a tree contains is known at its root: symbols, decimals, \pm, collections. */
static void ans_append(ans_work *w, int parent, int child) {
    ans_node *p = &w->nodes[parent];
    if (!parent || !child) {
        w->failed = 1;
        return;
    }
    if (p->n++) w->nodes[p->last].next = (int16_t)child;
    else p->first = (int16_t)child;
    p->last = (int16_t)child;
    p->height = (uint8_t)MAX(p->height, w->nodes[child].height + 1);
    if (p->height > ANS_HEIGHT) w->failed = 1;
    p->flags |= w->nodes[child].flags & (DECIMAL | PERCENT | FREE | BOTH_SIGNS | PARTS);
    if (w->nodes[child].op >= N_LIST) p->flags |= PARTS;
}

/* Child i, 0 if there is none. */
static int ans_child(const ans_work *w, int node, int i) {
    int c = w->nodes[node].first;
    while (i-- && c) c = w->nodes[c].next;
    return c;
}

/* One name out of two numbers: a 64-bit hash, and one of a text. */
static uint64_t ans_mix(uint64_t a, uint64_t b) {
    uint64_t z = (a ^ (b << 1 | b >> 63)) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t ans_hash(const char *s, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = ans_mix(h, (unsigned char)s[i]);
    return h;
}

/* A number in [0, 1) out of a name. */
static double ans_fraction(uint64_t name) {
    return (double)(name >> 11) / 9007199254740992.0;
}

/* Leaves of the tree. */
static int ans_symbol(ans_work *w, uint64_t name) {
    int n = ans_node_new(w, N_SYMBOL);
    w->nodes[n].name = name;
    w->nodes[n].flags = FREE;
    return n;
}

static int ans_constant(ans_work *w, int id) {
    int n = ans_node_new(w, N_CONSTANT);
    w->nodes[n].id = id;
    return n;
}

/* --- exact numbers */

/* A number node. The double is for the parts of a formula that are not rational. */
static int ans_rational(ans_work *w, int negative, natural num, natural den) {
    int n = ans_node_new(w, N_NUMBER);
    ans_node *p = &w->nodes[n];
    p->num = num;
    p->den = den;
    p->negative = (uint8_t)(negative && num.n != 0);
    p->flags = EXACT;
    p->value = (negative ? -1 : 1) * nat_ratio(w, num, den);
    return n;
}

static int ans_integer(ans_work *w, uint64_t v) {
    return ans_rational(w, 0, nat_from(w, v), nat_from(w, 1));
}

static int ans_is_exact(const ans_work *w, int n) {
    return w->nodes[n].op == N_NUMBER;
}

/* The integer value of a small exact number; 0 if it is none. */
static int ans_small_integer(ans_work *w, int node, int *value) {
    const ans_node *n = &w->nodes[node];
    double v = n->value;
    natural back; /* |v| times the denominator */
    if (n->op != N_NUMBER || !(fabs(v) < 100000) || floor(v) != v) return 0;
    back = nat_multiply(w, nat_from(w, (uint64_t)fabs(v)), n->den);
    *value = (int)v;
    return back.n >= 0 && !nat_compare(w, back, n->num);
}

/* A calculated number in place of the operation; 0 if it became too large. */
static int ans_folded(ans_work *w, int negative, natural num, natural den, int flags) {
    int n;
    if (num.n < 0 || den.n <= 0) return 0;
    n = ans_rational(w, negative, num, den);
    w->nodes[n].flags |= (uint8_t)flags;
    return n;
}

/* a/b + c/d; over the common denominator if it is one, so that long decimal sums stay short. */
static int ans_fold_sum(ans_work *w, const ans_node *a, const ans_node *b, int flags) {
    natural x = a->num, y = b->num, den = a->den;
    if (nat_compare(w, a->den, b->den)) {
        x = nat_multiply(w, a->num, b->den);
        y = nat_multiply(w, b->num, a->den);
        den = nat_multiply(w, a->den, b->den);
    }
    if (x.n < 0 || y.n < 0) return 0;
    if (a->negative == b->negative) return ans_folded(w, a->negative, nat_add(w, x, y), den, flags);
    if (nat_compare(w, x, y) >= 0) return ans_folded(w, a->negative, nat_subtract(w, x, y), den, flags);
    return ans_folded(w, b->negative, nat_subtract(w, y, x), den, flags);
}

/* Whole powers. 6400 bits are more than a number may have, so larger exponents are not tried. */
static int ans_fold_power(ans_work *w, const ans_node *a, int exponent_node, int flags) {
    int e, negative;
    natural num, den;
    if (!ans_small_integer(w, exponent_node, &e) || abs(e) > 6400) return 0;
    if (!a->num.n && e <= 0) return 0;
    negative = a->negative && e % 2;
    num = nat_power(w, a->num, (uint32_t)abs(e));
    den = nat_power(w, a->den, (uint32_t)abs(e));
    return e < 0 ? ans_folded(w, negative, den, num, flags) : ans_folded(w, negative, num, den, flags);
}

/* The exact result of an operation on exact numbers, or 0. */
static int ans_fold(ans_work *w, ans_op op, int i, int k) {
    const ans_node a = w->nodes[i], b = w->nodes[k];
    int flags = (a.flags | b.flags) & (DECIMAL | PERCENT), negative = a.negative != b.negative;
    if (!ans_is_exact(w, i) || !ans_is_exact(w, k)) return 0;
    if (op == N_ADD) return ans_fold_sum(w, &a, &b, flags);
    if (op == N_MULTIPLY)
        return ans_folded(w, negative, nat_multiply(w, a.num, b.num), nat_multiply(w, a.den, b.den), flags);
    if (op == N_DIVIDE && b.num.n)
        return ans_folded(w, negative, nat_multiply(w, a.num, b.den), nat_multiply(w, a.den, b.num), flags);
    if (op == N_POWER) return ans_fold_power(w, &a, k, flags);
    return 0;
}

static int ans_binary(ans_work *w, ans_op op, int a, int b);

/* Operations that calculate what is exact and build a node for the rest. */
static int ans_unary(ans_work *w, ans_op op, int a) {
    int n;
    if (op == N_NEGATE && ans_is_exact(w, a)) {
        const ans_node *p = &w->nodes[a];
        if ((n = ans_folded(w, !p->negative, p->num, p->den, p->flags & (DECIMAL | PERCENT | PLAIN))) != 0) return n;
    }
    if (op == N_NEGATE && (w->nodes[a].op == N_MATRIX || (w->nodes[a].op == N_TUPLE && !w->nodes[a].id)))
        return ans_binary(w, N_MULTIPLY, ans_rational(w, 1, nat_from(w, 1), nat_from(w, 1)), a);
    n = ans_node_new(w, op);
    ans_append(w, n, a);
    return n;
}

/* A copy of a tree, with the unit vectors replaced by 1 for the one named `basis` ('i', 'j', 'k') and 0 for others; by
 * themselves if that is 0. */
static int ans_copy(ans_work *w, int node, char basis) {
    const ans_node *p = &w->nodes[node];
    const int a = p->first, b = a ? w->nodes[a].next : 0, op = p->op;
    int n;
    if (w->failed || !ans_pay(w, 5)) return w->failed = 1, 0;
    if (op == N_BASIS && basis) return ans_integer(w, p->id == basis);
    if (op == N_NEGATE) return ans_unary(w, N_NEGATE, ans_copy(w, a, basis));
    if (op == N_ADD || op == N_MULTIPLY || op == N_DIVIDE || op == N_POWER)
        return n = ans_copy(w, a, basis), ans_binary(w, (ans_op)op, n, ans_copy(w, b, basis));
    if ((n = ans_node_new(w, (ans_op)op)) == 0) return 0;
    w->nodes[n] = w->nodes[node];
    w->nodes[n].first = w->nodes[n].last = w->nodes[n].next = w->nodes[n].n = 0;
    for (int c = a; c && !w->failed; c = w->nodes[c].next) ans_append(w, n, ans_copy(w, c, basis));
    return n;
}

/* A number times or divided into a matrix or vector: every element. 0 if these are no such operands. */
static int ans_scaled(ans_work *w, ans_op op, int a, int b) {
    const int whole = w->nodes[a].op == N_MATRIX || w->nodes[a].op == N_TUPLE ? a : b, scalar = whole == a ? b : a;
    const ans_node *m = &w->nodes[whole], *x = &w->nodes[scalar];
    int n, c;
    if ((op != N_MULTIPLY && op != N_DIVIDE) || (op == N_DIVIDE && whole == b)) return 0;
    if (!a || !b || (x->flags & PARTS) || x->op >= N_LIST) return 0;
    if (m->op != N_MATRIX && (m->op != N_TUPLE || m->id || !(x->flags & EXACT))) return 0;
    if ((n = ans_node_new(w, (ans_op)m->op)) == 0) return 0;
    w->nodes[n].id = m->id;
    w->nodes[n].flags = PARTS;
    for (c = m->first; c && !w->failed;) {
        const int next = w->nodes[c].next;
        w->nodes[c].next = 0;
        ans_append(w, n,
                   ans_binary(w, op, op == N_DIVIDE ? c : ans_copy(w, scalar, 0),
                              op == N_DIVIDE ? ans_copy(w, scalar, 0) : c));
        c = next;
    }
    return n;
}

static int ans_binary(ans_work *w, ans_op op, int a, int b) {
    int n = ans_fold(w, op, a, b);
    if (n || (n = ans_scaled(w, op, a, b)) != 0) return n;
    n = ans_node_new(w, op);
    ans_append(w, n, a);
    ans_append(w, n, b);
    if (op == N_PLUS_MINUS) w->nodes[n].flags |= BOTH_SIGNS;
    return n;
}

/* n!! as an exact number, 0 if it is too large. */
static int ans_fold_double_factorial(ans_work *w, int n) {
    natural r = nat_from(w, 1);
    for (; n > 1 && r.n > 0; n -= 2) r = nat_multiply(w, r, nat_from(w, (uint64_t)n));
    return ans_folded(w, 0, r, nat_from(w, 1), 0);
}

/* Functions of whole numbers, exact; 0 for others. */
static int ans_fold_call(ans_work *w, ans_function f, int a, int b) {
    int x, y = 0;
    if (!a || !ans_small_integer(w, a, &x) || x < 0) return 0;
    if (f == F_FACTORIAL) return ans_folded(w, 0, nat_product(w, 2, (uint32_t)MAX(x, 1)), nat_from(w, 1), 0);
    if (f == F_DOUBLE_FACTORIAL) return x < 1000 ? ans_fold_double_factorial(w, x) : 0;
    if (!b || !ans_small_integer(w, b, &y) || y < 0) return 0;
    if (f == F_MODULUS) return y ? ans_integer(w, (uint64_t)(x % y)) : 0;
    if ((f == F_BINOMIAL || f == F_PERMUTATION) && y > x) return ans_integer(w, 0);
    if (f == F_PERMUTATION)
        return ans_folded(w, 0, nat_product(w, (uint32_t)(x - y + 1), (uint32_t)x), nat_from(w, 1), 0);
    if (f != F_BINOMIAL) return 0;
    y = MIN(y, x - y);
    return ans_folded(w, 0, nat_product(w, (uint32_t)(x - y + 1), (uint32_t)x), nat_product(w, 2, (uint32_t)MAX(y, 1)),
                      0);
}

/* A function of one or two arguments. Factorials, binomials and their like of whole numbers are exact; bars around a
 * matrix are its determinant. */
static int ans_call(ans_work *w, ans_function f, int a, int b) {
    int n = ans_fold_call(w, f, a, b);
    if (n) return n;
    if (f == F_CUBE_ROOT) return ans_binary(w, N_ROOT, a, ans_integer(w, 3));
    n = ans_node_new(w, N_CALL);
    if (f == F_ABS && w->nodes[a].op == N_MATRIX) f = F_DET;
    w->nodes[n].id = (int)f;
    ans_append(w, n, a);
    if (b) ans_append(w, n, b);
    if (f == F_DET) w->nodes[n].flags &= (uint8_t)~PARTS;
    return n;
}

/* The digits of a NUMBER token, with what separates thousands, a point, a period, an exponent, as a rational. */
static int ans_number(ans_work *w, const ans_token *t) {
    natural num = nat_new(w, ANS_LIMBS), den, scale;
    int64_t shift = 0, exponent = 0;
    int point = 0, n, down = 0;
    const char *s = t->at, *end = t->at + t->length;
    if (num.n < 0) return w->failed = 1, 0;
    num.n = 0;
    for (; s < end && *s != 'e' && *s != 'E'; s++) {
        if (*s == '.') point = 1;
        if (!ans_is_digit(*s)) continue;
        num = ans_pay(w, num.n / 8 + 1) ? nat_append(w, num, ANS_LIMBS, 10, (uint32_t)(*s - '0')) : nat_unknown;
        if (num.n < 0) return w->failed = 1, 0;
        shift += point;
    }
    w->pool_used = num.at + num.n;
    if (s < end) {
        s++;
        down = *s == '-';
        if (*s == '-' || *s == '+') s++;
        for (; s < end; s++) exponent = MIN(exponent * 10 + (*s - '0'), 100000);
    }
    if (t->repeat) { /* x.yPPP... = (x.yPPP - x.y) as whole numbers, over 10^shift (10^repeat - 1) */
        natural whole = num, power = nat_power(w, nat_from(w, 10), t->repeat);
        num = nat_multiply(w, num, power);
        for (int i = 0; i < t->repeat; i++) {
            natural digit = nat_from(w, (uint64_t)(t->at[t->length + 10 + i] - '0'));
            num = nat_add(w, num, nat_multiply(w, digit, nat_power(w, nat_from(w, 10), (uint32_t)(t->repeat - 1 - i))));
        }
        if (num.n < 0 || power.n < 0) return w->failed = 1, 0;
        num = nat_subtract(w, num, whole);
        den = nat_subtract(w, power, nat_from(w, 1));
    } else den = nat_from(w, 1);
    shift += down ? exponent : -exponent;
    scale = nat_power(w, nat_from(w, 10), (uint32_t)(shift < 0 ? -shift : shift));
    n = shift < 0 ? ans_folded(w, 0, nat_multiply(w, num, scale), den, 0)
                  : ans_folded(w, 0, num, nat_multiply(w, den, scale), 0);
    if (!n) return w->failed = 1, 0;
    w->nodes[n].flags |= PLAIN | (point || exponent ? (t->repeat ? 0 : DECIMAL) : 0);
    return n;
}

/* --- reading */

static int ans_read_list(ans_work *w);
static int ans_read_factor(ans_work *w);
static int ans_read_product(ans_work *w);
static int ans_read_sum(ans_work *w);

/* The next token of the part being read. */
static const ans_token *ans_now(const ans_work *w) {
    static const ans_token end = {"", 0, T_END, 0, 0, 0, 0, 0};
    return w->at < w->stop ? &w->tokens[w->at] : &end;
}

/* Accepting a token steps over it. */
static int ans_accept(ans_work *w, char c) {
    if (!ans_is_char(ans_now(w), c)) return 0;
    return w->at++, 1;
}

static int ans_accept_kind(ans_work *w, int kind) {
    if (ans_now(w)->kind != kind) return 0;
    return w->at++, 1;
}

/* No formula: everything stops at the next look at a token. */
static int ans_no(ans_work *w) {
    w->failed = 1;
    w->stop = w->at;
    return 0;
}

/* Goes one level of nesting down; every call that succeeds is paired with ans_up. */
static int ans_down(ans_work *w) {
    if (w->depth >= ANS_DEPTH || w->failed || !ans_pay(w, 2)) return ans_no(w);
    return ++w->depth;
}

/* Back up, with a result. */
static int ans_up(ans_work *w, int result) {
    w->depth--;
    return w->failed ? 0 : result;
}

/* A list inside brackets; `bars` of absolute values are open around it, as far as a bar in it could close one. */
static int ans_read_group(ans_work *w, int bars) {
    int outer = w->bars, n;
    w->bars = bars;
    w->inner++;
    n = ans_read_list(w);
    w->inner--;
    w->bars = outer;
    return n;
}

/* {list} after its brace was accepted. With commas, it is a set; "{n \choose k}" is a binomial. */
static int ans_read_braced(ans_work *w) {
    int n;
    if (!ans_down(w)) return 0;
    n = ans_read_group(w, 0);
    if (ans_accept_kind(w, T_CHOOSE)) n = ans_call(w, F_BINOMIAL, n, ans_read_group(w, 0));
    else if (ans_accept_kind(w, T_OVER)) n = ans_binary(w, N_DIVIDE, n, ans_read_group(w, 0));
    if (!ans_accept(w, '}')) ans_no(w);
    if (n && w->nodes[n].op == N_LIST) w->nodes[n].op = N_SET;
    return ans_up(w, n);
}

/* Argument of \frac, ^ and the like: a group; a single digit of a longer number if `digit` is set; a whole number, a
 * letter or a command with its own arguments otherwise. */
static int ans_read_argument(ans_work *w, int digit) {
    ans_token *t = w->at < w->stop ? &w->tokens[w->at] : NULL;
    int n;
    if (ans_accept(w, '{')) return ans_read_braced(w);
    if (t && t->kind == T_NUMBER && digit && t->length > 1 && ans_is_digit(t->at[0])) {
        ans_token first = *t;
        first.length = 1;
        first.repeat = 0;
        t->at++;
        t->length--;
        return ans_number(w, &first);
    }
    if (!t || !ans_down(w)) return ans_no(w);
    if (!digit && ans_accept(w, '-')) n = ans_unary(w, N_NEGATE, ans_read_argument(w, 0));
    else if (!digit && ans_accept(w, '+')) n = ans_read_argument(w, 0);
    else if (t->kind == T_NUMBER) w->at++, n = ans_number(w, t);
    else if (t->kind == T_LETTER) {
        w->stop = MIN(w->stop, w->at + 1); /* only this letter: no index or power belongs to it */
        n = ans_read_factor(w);
    } else n = ans_read_factor(w);
    return ans_up(w, n);
}

/* The same, and afterwards the part being read ends where it did before. */
static int ans_argument(ans_work *w, int digit) {
    int stop = w->stop, n = ans_read_argument(w, digit);
    if (!w->failed) w->stop = stop;
    return n;
}

/* The kind of token that closes what this one opens. */
static int ans_close_of(const ans_token *open) {
    if (open->kind == T_OPEN_SET) return T_CLOSE_SET;
    if (open->kind == T_OPEN_ANGLE) return T_CLOSE_ANGLE;
    if (open->kind == T_FLOOR) return T_CLOSE_FLOOR;
    if (open->kind == T_CEILING) return T_CLOSE_CEILING;
    return T_CLOSE_BAR;
}

/* ( or [ up to ) or ]: a group, a tuple or an interval. The brackets are kept in id: bit 0 "[" , bit 1 "]". */
static int ans_read_bracket(ans_work *w, int square) {
    int n, list, closed;
    if (!ans_down(w)) return 0;
    n = ans_read_group(w, 0);
    closed = ans_is_char(ans_now(w), ']');
    if (!ans_accept(w, ')') && !ans_accept(w, ']')) ans_no(w);
    list = w->nodes[n].op == N_LIST;
    if (!list && square != closed) ans_no(w);
    if (list) {
        w->nodes[n].op = N_TUPLE;
        w->nodes[n].id = square | closed << 1;
    }
    return ans_up(w, n);
}

/* \{ ... \}; "\{x | x > 3\}" is its condition. */
static int ans_read_set(ans_work *w) {
    int n, set = 0, bars = 0, colon = 0;
    if (!ans_down(w)) return 0;
    if (ans_accept_kind(w, T_CLOSE_SET)) return ans_up(w, ans_constant(w, CONST_EMPTY));
    for (int i = w->at; i < w->stop && w->tokens[i].kind != T_CLOSE_SET && ans_pay(w, 1); i++) {
        bars += ans_is_char(&w->tokens[i], '|');
        if (!colon && ans_is_char(&w->tokens[i], ':')) colon = i + 1;
    }
    if (colon && ans_now(w)->kind == T_LETTER && (colon == w->at + 2 || ans_now(w)[1].kind == T_RELATION))
        w->at = colon;
    n = ans_read_group(w, bars % 2); /* an odd bar separates */
    if (ans_accept(w, '|')) n = ans_read_group(w, 0);
    else if (n && w->nodes[n].op == N_LIST) w->nodes[n].op = N_SET;
    else set = 1;
    if (!ans_accept_kind(w, T_CLOSE_SET)) ans_no(w);
    if (set && n) { /* one element: a set, or braces used as brackets */
        int one = ans_node_new(w, N_SET);
        ans_append(w, one, n);
        w->nodes[one].flags = w->nodes[n].flags;
        n = one;
    }
    return ans_up(w, n);
}

/* Floors, ceilings, angle brackets and bars that say which side they are. */
static int ans_read_enclosed(ans_work *w, const ans_token *open) {
    int n;
    if (!ans_down(w)) return 0;
    n = ans_read_group(w, 0);
    if (!ans_accept_kind(w, ans_close_of(open))) ans_no(w);
    if (n && open->kind == T_OPEN_ANGLE && w->nodes[n].op == N_LIST) w->nodes[n].op = N_TUPLE;
    if (n && open->kind != T_OPEN_ANGLE)
        n = ans_call(w, open->kind == T_FLOOR ? F_FLOOR : open->kind == T_CEILING ? F_CEILING : F_ABS, n, 0);
    return ans_up(w, n);
}

/* Bars do not say whether they open or close. After an operand a bar closes what is open; but the second of two
 * bars opens a new one if an operand follows and enough bars are left to close all: ||x||y||. */
static int ans_bar_opens(ans_work *w) {
    int left = 0;
    if (!w->bars) return 1;
    if (w->at + 1 >= w->stop || !ans_is_char(&w->tokens[w->at - 1], '|')) return 0;
    if (w->tokens[w->at + 1].kind == T_CHARACTER) return 0;
    for (int i = w->at; i < w->stop && ans_pay(w, 1); i++) left += ans_is_char(&w->tokens[i], '|');
    return left >= w->bars + 2;
}

/* |x| after its first bar. */
static int ans_read_bars(ans_work *w) {
    int n;
    if (!ans_down(w)) return 0;
    n = ans_read_group(w, w->bars + 1);
    if (!ans_accept(w, '|')) ans_no(w);
    return ans_up(w, ans_call(w, F_ABS, n, 0));
}

/* \sqrt{x}, \sqrt[3]{x}, \sqrt3. */
static int ans_read_root(ans_work *w) {
    int index = 0, n;
    if (ans_accept(w, '[')) {
        if (!ans_down(w)) return 0;
        index = ans_read_list(w);
        if (!ans_accept(w, ']')) ans_no(w);
        ans_up(w, 0);
    }
    n = ans_argument(w, 0);
    if (!index) return ans_call(w, F_SQRT, n, 0);
    return ans_binary(w, N_ROOT, n, index);
}

/* The argument of a function without brackets: \sin 2x, \sin \cos x; a bracket ends it. */
static int ans_read_function_argument(ans_work *w) {
    int n = 0;
    const ans_token *t = ans_now(w);
    if (ans_is_char(t, '(') || ans_is_char(t, '[') || ans_is_char(t, '{') || t->kind == T_OPEN_SET ||
        t->kind == T_OPEN_BAR) {
        w->at++;
        if (ans_is_char(t, '{')) return ans_read_braced(w);
        if (t->kind == T_OPEN_SET) return ans_read_set(w);
        return t->kind == T_OPEN_BAR ? ans_read_enclosed(w, t) : ans_read_bracket(w, t->id == '[');
    }
    if (ans_accept(w, '-')) {
        if (!ans_down(w)) return 0;
        return ans_up(w, ans_unary(w, N_NEGATE, ans_read_function_argument(w)));
    }
    for (;; t = ans_now(w)) {
        int factor, first = !n;
        if (t->kind != T_NUMBER && t->kind != T_LETTER && t->kind != T_SYMBOL && t->kind != T_CONSTANT &&
            t->kind != T_FRACTION && t->kind != T_ROOT && t->kind != T_BINOMIAL && t->kind != T_BEGIN &&
            !(first && (t->kind == T_FUNCTION || ans_is_char(t, '|'))))
            break;
        factor = ans_read_factor(w);
        n = n ? ans_binary(w, N_MULTIPLY, n, factor) : factor;
        if (w->failed || (first && t->kind == T_FUNCTION)) break;
    }
    return n ? n : ans_no(w);
}

/* \sin^{-1} is arcsin, not 1/sin; the function itself if it has no inverse here. */
static ans_function ans_inverse(ans_function f) {
    if (f <= F_CSC) return (ans_function)(f + (F_ARCSIN - F_SIN));
    return f == F_SINH ? F_ARSINH : f == F_COSH ? F_ARCOSH : f == F_TANH ? F_ARTANH : f;
}

/* \log_39 is the logarithm of 9 to base 3: a bare base is one digit if nothing else is left for the argument. */
static int ans_base_is_digit(const ans_work *w) {
    const ans_token *t = ans_now(w);
    if (t->kind != T_NUMBER || t->length < 2) return 0;
    if (w->at + 1 >= w->stop) return 1;
    return t[1].kind != T_NUMBER && t[1].kind != T_LETTER && t[1].kind != T_SYMBOL && t[1].kind != T_FRACTION &&
           t[1].kind != T_ROOT && !ans_is_char(t + 1, '(') && !ans_is_char(t + 1, '{');
}

/* \sin^2 x, \log_2 x, \sin^{-1} x, \max(a, b) */
static int ans_read_function(ans_work *w, ans_function f) {
    int power = 0, base = 0, n, call, e;
    if (ans_is_char(ans_now(w), '}')) return ans_symbol(w, ans_mix((uint64_t)f, 13)); /* the index of x_{\max} */
    for (int i = 0; i < 2; i++) {
        if (!power && ans_accept(w, '^')) power = ans_argument(w, 0);
        else if (!base && ans_accept(w, '_')) base = ans_argument(w, f == F_LN && ans_base_is_digit(w));
    }
    if (f == F_LN && !base && ans_now(w)->kind == T_NUMBER && !ans_now(w)->spaced && w->at + 1 < w->stop &&
        ans_is_char(ans_now(w) + 1, '(')) /* log2(8) */
        base = ans_number(w, &w->tokens[w->at++]);
    if (power && ans_small_integer(w, power, &e) && e == -1 && ans_inverse(f) != f) {
        f = ans_inverse(f);
        power = 0;
    }
    if (!ans_down(w)) return 0;
    n = ans_read_function_argument(w);
    if (n && w->nodes[n].op == N_TUPLE && w->nodes[n].n == 2 && f != F_MAX && f != F_MIN) /* binom(5, 2) */
        call = ans_call(w, f, w->nodes[n].first, w->nodes[n].last);
    else if (n && w->nodes[n].op >= N_LIST && w->nodes[n].op <= N_SET) { /* several arguments */
        w->nodes[n].op = N_CALL;
        w->nodes[n].id = (int)f;
        w->nodes[n].flags &= (uint8_t)~PARTS;
        call = n;
    } else call = ans_call(w, f, n, 0);
    if (base && f == F_LN) call = ans_binary(w, N_DIVIDE, call, ans_call(w, F_LN, base, 0));
    else if (base && call) {
        int opaque = ans_node_new(w, N_OPAQUE);
        w->nodes[opaque].name = ans_mix((uint64_t)f, 7);
        ans_append(w, opaque, base);
        ans_append(w, opaque, call);
        call = opaque;
    }
    if (power) call = ans_binary(w, N_POWER, call, power);
    return ans_up(w, call);
}

/* The body of an integral reaches to its differential: \int x + a dx is the integral of (x + a) dx. */
static int ans_read_integrand(ans_work *w) {
    int depth = 0, outer = w->stop, n;
    for (int i = w->at; i + 1 < w->stop && depth >= 0 && ans_pay(w, 1); i++) {
        const ans_token *t = &w->tokens[i];
        depth += ans_bracket(t);
        if (depth || i == w->at || t->kind != T_LETTER || t->id != 'd') continue;
        if (t[1].kind != T_LETTER && t[1].kind != T_SYMBOL) continue;
        w->stop = i;
        n = ans_read_sum(w);
        if (w->failed || w->at != i) return ans_no(w);
        w->stop = outer;
        n = ans_binary(w, N_MULTIPLY, n, ans_read_factor(w)); /* d */
        return ans_binary(w, N_MULTIPLY, n, ans_read_factor(w));
    }
    return ans_read_product(w);
}

/* \sum_{k=1}^{n} body, \int_a^b body, \lim_{x \to a} body. */
static int ans_read_large(ans_work *w, int id) {
    int under = 0, over = 0, body, n;
    char outer = w->index;
    if (w->at + 3 < w->stop && ans_is_char(&w->tokens[w->at + 1], '{') && w->tokens[w->at + 2].kind == T_LETTER)
        w->index = *w->tokens[w->at + 2].at; /* not the imaginary unit */
    for (int i = 0; i < 2; i++) {
        if (!under && ans_accept(w, '_')) under = ans_argument(w, 0);
        else if (!over && ans_accept(w, '^')) over = ans_argument(w, 0);
    }
    if (!ans_down(w)) return 0;
    body = id == LARGE_INTEGRAL ? ans_read_integrand(w) : ans_read_product(w);
    w->index = outer;
    if (!body) return ans_up(w, ans_no(w));
    if (id <= LARGE_PRODUCT && under && over && w->nodes[under].op == N_RELATION && w->nodes[under].n == 2 &&
        w->nodes[ans_child(w, under, 0)].op == N_SYMBOL) {
        int lower = ans_child(w, under, 1);
        n = ans_node_new(w, N_SUM);
        w->nodes[n].id = id == LARGE_PRODUCT;
        w->nodes[n].name = w->nodes[ans_child(w, under, 0)].name;
        w->nodes[lower].next = 0;
        ans_append(w, n, lower);
        ans_append(w, n, over);
    } else {
        n = ans_node_new(w, N_OPAQUE);
        w->nodes[n].name = ans_mix((uint64_t)id, 11);
        if (under && w->nodes[under].op == N_RELATION) { /* x \to a: both count */
            w->nodes[under].op = N_OPAQUE;
            w->nodes[under].flags &= (uint8_t)~PARTS;
        }
        if (under) ans_append(w, n, under);
        if (over) ans_append(w, n, over);
    }
    ans_append(w, n, body);
    return ans_up(w, n);
}

/* Rows of cells up to the end of the environment. All rows have the same number of cells. */
static int ans_read_matrix(ans_work *w) {
    int n = ans_node_new(w, N_MATRIX), columns = 0, cells = 0;
    if (!ans_down(w)) return 0;
    while (!w->failed && ans_now(w)->kind != T_FINISH) {
        ans_append(w, n, ans_read_list(w));
        cells++;
        if (ans_accept(w, '&')) continue;
        if (!columns) columns = cells;
        if (cells != columns) ans_no(w);
        cells = 0;
        if (!ans_accept_kind(w, T_ROW)) break;
    }
    if (!ans_accept_kind(w, T_FINISH)) ans_no(w);
    w->nodes[n].id = columns;
    w->nodes[n].flags |= PARTS;
    return ans_up(w, n);
}

/* The letter e is Euler's number, i and I the imaginary unit; j too where the answer has no i. */
static int ans_read_letter(ans_work *w, const ans_token *t) {
    char c = *t->at;
    int n;
    if (c == w->index) return ans_symbol(w, ans_hash(&c, 1));
    if (c == 'e') return ans_constant(w, CONST_E);
    if (c == 'i' || (c == 'I' && !ans_is_char(ans_now(w), '('))) return ans_constant(w, CONST_I);
    if (c == 'j' && !w->has_i) return ans_constant(w, CONST_I);
    n = ans_symbol(w, ans_hash(&c, 1));
    if (c <= 'Z') w->nodes[n].id = ID_CAPITAL;
    return n;
}

/* 1 if "(...)" or "{(...)}" after a name is the argument of a function: anything for f and g, a number or several
 * arguments for others. Otherwise "a(b+c)" is a product. */
static int ans_is_application(ans_work *w, const ans_token *name) {
    int at = w->at + ans_is_char(ans_now(w), '{'), depth = 0;
    if (at + 2 >= w->stop || !ans_is_char(&w->tokens[at], '(')) return 0;
    if (name->kind == T_LETTER && strchr("fg", *name->at)) return 1;
    if (w->tokens[at + 1].kind == T_NUMBER && ans_is_char(&w->tokens[at + 2], ')')) return 1;
    for (int i = at; i < w->stop && ans_pay(w, 1); i++) {
        depth += ans_bracket(&w->tokens[i]);
        if (!depth) return 0;
        if (depth == 1 && w->tokens[i].kind == T_SEPARATOR) return 1;
    }
    return 0;
}

/* The call of an unknown function: name, then arguments. */
static int ans_read_applied(ans_work *w, int name, const ans_token *first) {
    int n = ans_node_new(w, N_OPAQUE), braced = ans_accept(w, '{'), list;
    if (!ans_accept(w, '(')) return ans_no(w);
    list = ans_read_bracket(w, 0);
    if (braced && !ans_accept(w, '}')) return ans_no(w);
    if (w->nodes[list].op == N_TUPLE && first->kind == T_LETTER && first->id < 'a') {
        w->side->ambiguous = 1;
        if (w->plain) return list; /* the label of a point */
        if (w->nodes[list].n == 2 && (first->id == 'C' || first->id == 'P'))
            return ans_call(w, first->id == 'C' ? F_BINOMIAL : F_PERMUTATION, w->nodes[list].first,
                            w->nodes[list].last);
    }
    if (w->nodes[list].op == N_TUPLE) {
        w->nodes[list].op = N_OPAQUE;
        w->nodes[list].flags &= (uint8_t)~PARTS;
    }
    w->nodes[n].name = ans_mix(w->nodes[name].name, 17);
    if (w->nodes[name].op == N_OPAQUE) ans_append(w, n, name); /* f_k(x) depends on k */
    ans_append(w, n, list);
    w->nodes[n].flags |= FREE;
    return w->failed ? 0 : n;
}

/* _a: a name with a number is another name; anything else is a function of the index, so that a_{k+1} is. */
static int ans_read_index(ans_work *w, int base) {
    int index = ans_argument(w, 0), n;
    if (!index || !base) return ans_no(w);
    if (w->nodes[base].op == N_SYMBOL && ans_is_exact(w, index)) {
        w->nodes[base].name = ans_mix(w->nodes[base].name, (uint64_t)(int64_t)(w->nodes[index].value * 4096));
        return base;
    }
    n = ans_node_new(w, N_OPAQUE);
    w->nodes[n].name = ans_mix(w->nodes[base].name, 3);
    if (w->nodes[base].op != N_SYMBOL) ans_append(w, n, base);
    ans_append(w, n, index);
    if (w->nodes[base].op == N_SYMBOL) w->nodes[n].flags |= FREE;
    return n;
}

/* \frac and \binom take two groups, or two digits: \frac12. */
static int ans_read_fraction(ans_work *w) {
    int a = ans_argument(w, 1), b = ans_argument(w, 1);
    return a && b ? ans_binary(w, N_DIVIDE, a, b) : ans_no(w);
}

static int ans_read_binomial(ans_work *w) {
    int a, b;
    if (ans_accept(w, '(')) { /* binom(5, 2) */
        a = ans_read_bracket(w, 0);
        return w->nodes[a].n == 2 ? ans_call(w, F_BINOMIAL, w->nodes[a].first, w->nodes[a].last) : ans_no(w);
    }
    a = ans_argument(w, 1);
    b = ans_argument(w, 1);
    return a && b ? ans_call(w, F_BINOMIAL, a, b) : ans_no(w);
}

/* C or P of two numbers, of which the first is read: 5C2, ^5C_2, _5P_2. */
static int ans_read_chosen(ans_work *w, int top) {
    const ans_token *t = ans_now(w);
    int under;
    if (t->kind != T_LETTER || (t->id != 'C' && t->id != 'P')) return ans_no(w);
    w->at++;
    if (ans_accept(w, '_') || ans_accept(w, '^')) under = ans_argument(w, 0);
    else under = ans_now(w)->kind == T_NUMBER ? ans_number(w, &w->tokens[w->at++]) : ans_no(w);
    return under ? ans_call(w, t->id == 'C' ? F_BINOMIAL : F_PERMUTATION, top, under) : 0;
}

/* One operand: a number, a name, a command with its arguments, or brackets. */
static int ans_read_atom(ans_work *w) {
    const ans_token *t = ans_now(w);
    int n;
    if (w->failed || t->kind == T_END) return ans_no(w);
    w->at++;
    switch (t->kind) {
    case T_NUMBER: return ans_number(w, t);
    case T_LETTER: return ans_read_letter(w, t);
    case T_SYMBOL: return ans_symbol(w, ans_hash(t->at, t->length));
    case T_CONSTANT: return ans_constant(w, t->id);
    case T_FUNCTION: return ans_read_function(w, (ans_function)t->id);
    case T_FRACTION: return ans_read_fraction(w);
    case T_BINOMIAL: return ans_read_binomial(w);
    case T_ROOT: return ans_read_root(w);
    case T_LARGE: return ans_read_large(w, t->id);
    case T_OPEN_SET: return ans_read_set(w);
    case T_OPEN_ANGLE: case T_FLOOR: case T_CEILING: case T_OPEN_BAR: return ans_read_enclosed(w, t);
    case T_BEGIN: n = ans_read_matrix(w); return t->id && n ? ans_call(w, F_DET, n, 0) : n;
    case T_BASIS:
        n = ans_node_new(w, N_BASIS);
        w->nodes[n].id = t->id;
        return n;
    case T_CHARACTER:
        if (t->id == '(' || t->id == '[') return ans_read_bracket(w, t->id == '[');
        if (t->id == '{' && ans_is_char(ans_now(w), '}') && w->at + 1 < w->stop &&
            (ans_is_char(t + 2, '_') || ans_is_char(t + 2, '^'))) { /* {}_5C_2 */
            w->at++;
            return ans_read_atom(w);
        }
        if (t->id == '{') return ans_read_braced(w);
        if (t->id == '|') return ans_read_bars(w);
        if (t->id == '^' || t->id == '_') return ans_read_chosen(w, ans_argument(w, 0));
    }
    w->at--;
    return ans_no(w);
}

/* 30' and 15'' after degrees: n + 30/60 + 15/3600. */
static int ans_read_minutes(ans_work *w, int n) {
    for (int i = 0, unit = 60; i < 2; i++, unit *= 60) {
        const ans_token *t = ans_now(w);
        if (t->kind != T_NUMBER || w->at + 1 >= w->stop || !ans_is_char(t + 1, '\'')) break;
        n = ans_binary(w, N_ADD, n, ans_binary(w, N_DIVIDE, ans_number(w, t), ans_integer(w, (uint64_t)unit)));
        for (w->at++; ans_accept(w, '\'');) continue;
    }
    return n;
}

/* The sign changes no value; it allows the factor of 100 when values are compared. */
static int ans_percent(ans_work *w, int n) {
    if (n) w->nodes[n].flags |= PERCENT;
    return n;
}

/* T or \top as the power of a matrix or vector: its rows become columns, in place. 1 if that is what follows. */
static int ans_read_transposed(ans_work *w, int node) {
    ans_node *m = &w->nodes[node];
    const int at = w->at, braced = ans_accept(w, '{'), columns = m->op == N_MATRIX ? m->id : 1;
    const int cells = m->n, rows = columns ? cells / columns : 0;
    const ans_token *t = ans_now(w);
    int c[ANS_ELEMENTS], k = 0;
    const int is = (t->kind == T_LETTER && t->id == 'T') ||
                   (t->kind == T_SYMBOL && ans_is_any(ans_span(t->at, t->length), "top intercal"));
    w->at++;
    if (!is || (m->op != N_MATRIX && m->op != N_TUPLE && m->op != N_LIST) || cells > ANS_ELEMENTS ||
        (braced && !ans_accept(w, '}')))
        return w->at = at, 0;
    for (int i = m->first; i; i = w->nodes[i].next) c[k++] = i;
    m->op = N_MATRIX;
    m->id = rows;
    if (k != rows * columns || !k) return w->failed = 1;
    for (int i = 0; i < columns; i++) /* element (i, j) of the result is (j, i) of m */
        for (int j = 0; j < rows; j++) {
            const int at_end = i * rows + j + 1 == k,
                      next = at_end ? 0 : c[(i * rows + j + 1) % rows * columns + (i * rows + j + 1) / rows];
            w->nodes[c[j * columns + i]].next = (int16_t)next;
            if (at_end) m->last = (int16_t)c[j * columns + i];
        }
    return 1;
}

/* An atom and what follows it closely. */
static int ans_read_factor(ans_work *w) {
    const ans_token *first = ans_now(w);
    int n, name = first->kind == T_LETTER || first->kind == T_SYMBOL; /* may still be the name of a function */
    if (!ans_down(w)) return 0;
    n = ans_read_atom(w);
    while (!w->failed && n) {
        name = name && (w->nodes[n].op == N_SYMBOL || w->nodes[n].op == N_OPAQUE);
        if (name && ans_is_application(w, first)) n = ans_read_applied(w, n, first), name = 0;
        else if (ans_accept(w, '^')) n = ans_read_transposed(w, n) ? n : ans_binary(w, N_POWER, n, ans_argument(w, 0));
        else if (ans_accept(w, '_')) n = ans_read_index(w, n);
        else if (ans_accept(w, '!')) n = ans_call(w, ans_accept(w, '!') ? F_DOUBLE_FACTORIAL : F_FACTORIAL, n, 0);
        else if (ans_accept_kind(w, T_DEGREE)) n = ans_unary(w, N_DEGREE, ans_read_minutes(w, n));
        else if (ans_accept_kind(w, T_PERCENT)) n = ans_percent(w, n);
        else if (name && ans_accept(w, '\'')) w->nodes[n].name = ans_mix(w->nodes[n].name, 5);
        else break;
    }
    return ans_up(w, n);
}

/* 1 if the next token can be multiplied with what is before it without a sign. */
static int ans_starts_factor(ans_work *w) {
    const ans_token *t = ans_now(w);
    switch (t->kind) {
    case T_NUMBER: case T_LETTER: case T_SYMBOL: case T_CONSTANT: case T_FUNCTION: case T_FRACTION: case T_BINOMIAL:
    case T_ROOT: case T_LARGE: case T_OPEN_SET: case T_OPEN_ANGLE: case T_FLOOR: case T_CEILING: case T_OPEN_BAR:
    case T_BEGIN: case T_BASIS: return 1;
    case T_CHARACTER: return t->id == '(' || t->id == '[' || t->id == '{' || (t->id == '|' && ans_bar_opens(w));
    }
    return 0;
}

/* 1 if the tokens from `at` on are a proper fraction of two whole numbers, as in "3 \frac{1}{2}" or "3 1/2". */
static int ans_is_mixed(const ans_work *w, int at) {
    const ans_token *t = &w->tokens[at];
    const ans_token *a, *b;
    if (at >= w->stop) return 0;
    if (t->kind == T_NUMBER && t->spaced && at + 2 < w->stop && ans_is_char(t + 1, '/') && t[2].kind == T_NUMBER)
        a = t, b = t + 2;
    else if (t->kind == T_FRACTION && at + 6 < w->stop && ans_is_char(t + 1, '{') && ans_is_char(t + 3, '}') &&
             ans_is_char(t + 4, '{') && ans_is_char(t + 6, '}')) a = t + 2, b = t + 5;
    else if (t->kind == T_FRACTION && at + 1 < w->stop && t[1].kind == T_NUMBER && t[1].length == 2)
        return t[1].at[0] < t[1].at[1];
    else return 0;
    for (int k = 0; k < 2; k++) {
        const ans_token *x = k ? b : a;
        if (x->kind != T_NUMBER) return 0;
        for (int i = 0; i < x->length; i++)
            if (!ans_is_digit(x->at[i])) return 0;
    }
    return a->length < b->length || (a->length == b->length && memcmp(a->at, b->at, a->length) < 0);
}

/* 1 for a number without point or exponent. */
static int ans_is_whole(const ans_token *t) {
    for (int i = 0; i < t->length; i++)
        if (t->at[i] == '.' || t->at[i] == 'e' || t->at[i] == 'E') return 0;
    return t->kind == T_NUMBER;
}

/* A number, a mixed number, or a fraction of two numbers before other factors. */
static int ans_read_number(ans_work *w) {
    const ans_token *t = ans_now(w);
    int n = ans_read_factor(w);
    if (ans_is_whole(t) && t == &w->tokens[w->at - 1]) {
        const ans_token *c = ans_now(w);
        if (c->kind == T_LETTER && (c->id == 'C' || c->id == 'P') && !c->spaced && w->at + 1 < w->stop &&
            ((c[1].kind == T_NUMBER && !c[1].spaced) || (ans_is_char(c + 1, '_') && w->at + 2 < w->stop)))
            return ans_read_chosen(w, n);
        if (ans_is_mixed(w, w->at)) {
            int fraction = ans_read_factor(w);
            if (ans_accept(w, '/')) fraction = ans_binary(w, N_DIVIDE, fraction, ans_read_factor(w));
            return ans_binary(w, N_ADD, n, fraction);
        }
        if (ans_is_char(ans_now(w), '/') && w->at + 1 < w->stop && ans_is_whole(&w->tokens[w->at + 1]) &&
            !(w->at + 2 < w->stop &&
              (ans_is_char(&w->tokens[w->at + 2], '^') || ans_is_char(&w->tokens[w->at + 2], '!')))) {
            w->at++;
            return ans_binary(w, N_DIVIDE, n, ans_read_factor(w));
        }
    }
    return n;
}

/* Signs, and factors side by side. */
static int ans_read_implicit(ans_work *w) {
    int n, before, negative = 0;
    while (ans_is_char(ans_now(w), '-') || ans_is_char(ans_now(w), '+')) negative ^= w->tokens[w->at++].id == '-';
    before = w->at;
    n = ans_now(w)->kind == T_NUMBER ? ans_read_number(w) : ans_read_factor(w);
    while (!w->failed && n && ans_starts_factor(w)) {
        int letter = w->tokens[w->at - 1].kind == T_LETTER && w->at == before + 1 && ans_is_char(ans_now(w), '(');
        int factor;
        if (ans_now(w)->kind == T_NUMBER && w->tokens[w->at - 1].kind == T_NUMBER) return ans_no(w); /* "2 3" */
        factor = ans_read_factor(w);
        n = ans_binary(w, N_MULTIPLY, n, factor);
        if (letter && n) w->nodes[n].flags |= APPLIED;
    }
    return negative ? ans_unary(w, N_NEGATE, n) : n;
}

/* a : b : c is the tuple (b/a, c/a): proportions are equal when these are. */
static int ans_read_ratio(ans_work *w, int a) {
    int parts[16], n = 0, tuple;
    parts[n++] = a;
    while (!w->failed && n < COUNT(parts) && ans_accept(w, ':')) parts[n++] = ans_read_implicit(w);
    if (n == 2) return ans_binary(w, N_DIVIDE, parts[0], parts[1]);
    if (!ans_is_exact(w, a)) return ans_no(w); /* a node has one parent: only numbers can be used twice */
    tuple = ans_node_new(w, N_TUPLE);
    w->nodes[tuple].id = 4;
    for (int i = 1; i < n; i++) {
        int quotient = ans_fold(w, N_DIVIDE, parts[i], a);
        if (!quotient) return ans_no(w);
        ans_append(w, tuple, quotient);
    }
    return tuple;
}

/* Multiplication and division from left to right. */
static int ans_read_product(ans_work *w) {
    int n;
    if (!ans_down(w)) return 0;
    n = ans_read_implicit(w);
    while (!w->failed && n) {
        if (ans_accept(w, '*')) n = ans_binary(w, N_MULTIPLY, n, ans_read_implicit(w));
        else if (ans_now(w)->kind == T_MODULUS && !ans_now(w)->id)
            w->at++, n = ans_call(w, F_MODULUS, n, ans_read_implicit(w));
        else if (ans_accept(w, '/')) n = ans_binary(w, N_DIVIDE, n, ans_read_implicit(w));
        else if (ans_is_char(ans_now(w), ':')) n = ans_read_ratio(w, n);
        else break;
    }
    return ans_up(w, n);
}

/* Addition, subtraction and \pm from left to right. A minus becomes a negative term. */
static int ans_read_sum(ans_work *w) {
    int n, negative = 0;
    if (ans_now(w)->kind == T_PLUS_MINUS) n = ans_integer(w, 0); /* "\pm 3" */
    else n = ans_read_product(w);
    while (!w->failed && n) {
        const ans_token *t = ans_now(w);
        if (t->kind != T_PLUS_MINUS && !ans_is_char(t, '+') && !ans_is_char(t, '-')) break;
        w->at++;
        negative = ans_is_char(t, '-') || (t->kind == T_PLUS_MINUS && t->id);
        n = ans_binary(w, t->kind == T_PLUS_MINUS ? N_PLUS_MINUS : N_ADD, n,
                       negative ? ans_unary(w, N_NEGATE, ans_read_product(w)) : ans_read_product(w));
    }
    return n;
}

/* --- words and units */

/* 1 for what ends an operand at this level of brackets. */
static int ans_ends_operand(const ans_token *t) {
    return t->kind == T_END || t->kind == T_SEPARATOR || t->kind == T_RELATION || t->kind == T_ROW ||
           t->kind == T_FINISH || t->kind == T_CHOOSE || t->kind == T_OVER || (t->kind == T_MODULUS && t->id) ||
           ans_is_char(t, '&');
}

/* The token behind the operand at this place: a separator, a relation or a closing bracket. */
static int ans_operand_end(ans_work *w) {
    int depth = 0, i;
    for (i = w->at; i < w->stop; i++) {
        int b = ans_bracket(&w->tokens[i]);
        if (!depth && (b < 0 || (b == 0 && ans_ends_operand(&w->tokens[i])))) break;
        depth += b;
    }
    ans_pay(w, 2 * (i - w->at));
    return i;
}

/* A unit as it was read: base units times num / den; what is counted where it is none of the table: "red balls", and
 * "items" behind "5 dollars per". */
typedef struct ans_unit {
    natural num, den;
    int64_t dimension;
    int unsaid; /* "square units": which length it is the square of is not said */
    int n_words;
    uint64_t words[8]; /* names of their stems */
} ans_unit;

static void ans_unit_clear(ans_work *w, ans_unit *unit) {
    memset(unit, 0, sizeof *unit);
    unit->num = unit->den = nat_from(w, 1);
}

/* Tokens of the letters that touch each other from `at` on, as one name. */
static int ans_run(const ans_work *w, int at, int stop, polar_span *name) {
    const ans_token *t = &w->tokens[at];
    int n = 0;
    size_t length = 0;
    while (at + n < stop && (t[n].kind == T_LETTER || t[n].kind == T_WORD || (t[n].kind == T_SYMBOL && !n) ||
                             (t[n].kind == T_FUNCTION && t[n].at[-1] != '\\')) &&
           t[n].at == t->at + length && !(n && (t[n].kind == T_WORD || t[n].upright != t->upright))) {
        length += t[n].length;
        n++;
        if (t->kind == T_SYMBOL) break;
    }
    *name = ans_span(t->at, length);
    return n;
}

/* The exponent behind a unit: ^2, ^{2}, ^{-1}, squared, cubed; 1 without. *used: its tokens. */
static int ans_unit_power(const ans_work *w, int at, int stop, int *used) {
    const ans_token *t = &w->tokens[at];
    const int braced = at + 1 < stop && ans_is_char(t + 1, '{'),
              minus = at + 1 + braced < stop && ans_is_char(t + 1 + braced, '-');
    const int digit = at + 1 + braced + minus;
    polar_span name;
    *used = 0;
    if (at < stop && ans_is_char(t, '^') && digit < stop && w->tokens[digit].kind == T_NUMBER &&
        w->tokens[digit].length == 1) {
        *used = digit + 1 + braced - at;
        return (minus ? -1 : 1) * (*w->tokens[digit].at - '0');
    }
    if (at < stop && ans_run(w, at, stop, &name) == 1) {
        *used = 1;
        if (ans_is_any(name, "squared")) return 2;
        if (ans_is_any(name, "cubed")) return 3;
    }
    *used = 0;
    return 1;
}

/* Multiplies a unit by `power` times a row. */
static void ans_add_unit(ans_work *w, ans_unit *unit, const ans_unit_row *row, int exponent, int power) {
    const uint32_t k = (uint32_t)abs(power), ten = (uint32_t)(abs(exponent) * abs(power));
    natural num = nat_power(w, nat_from(w, row->num), k), den = nat_power(w, nat_from(w, row->den), k);
    const natural scale = nat_power(w, nat_from(w, 10), ten);
    if (exponent >= 0) num = nat_multiply(w, num, scale);
    else den = nat_multiply(w, den, scale);
    unit->num = nat_multiply(w, unit->num, power < 0 ? den : num);
    unit->den = nat_multiply(w, unit->den, power < 0 ? num : den);
    unit->dimension += power * row->dimension;
    unit->unsaid |= row->flags & UNIT_UNSAID;
}

/* Reads the units from `at` on as far as they are known: "cm^2", "km/h", "square feet", "dollars per hour". Returns the
 * tokens taken, 0 for none. A letter alone is a unit after a space only, or in a text command. */
static int ans_read_unit(ans_work *w, int at, int stop, ans_unit *unit) {
    int i = at, end = at, sign = 1, power = 1;
    ans_unit_clear(w, unit);
    while (i < stop && ans_pay(w, 100)) {
        const ans_token *t = &w->tokens[i];
        const ans_unit_row *row;
        polar_span name, next;
        int n = ans_run(w, i, stop, &name), exponent, used, own;
        if (end > at && (ans_is_char(t, '/') || ans_is_any(name, "per"))) {
            sign = -1;
            i += MAX(n, 1);
            continue;
        }
        if (end > at && ans_is_char(t, '*') && i++ >= 0) continue;
        if (ans_is_any(name, "square sq cubic cu")) {
            power = ans_lower(*name.text) == 's' ? 2 : 3;
            i += n;
            continue;
        }
        if (t->kind == T_DEGREE && i++ >= 0) continue; /* degrees Celsius */
        if (i && w->tokens[i - 1].kind == T_DEGREE && n == 1 && (t->id == 'C' || t->id == 'F'))
            name = t->id == 'C' ? ans_span("celsius", 7) : ans_span("fahrenheit", 10);
        if (!n || (row = ans_find_unit(name, &exponent)) == NULL) break;
        if (ans_is_any(name, "in") && ans_run(w, i + n, stop, &next) && ans_is_any(next, "all total the a")) break;
        own = ans_unit_power(w, i + n, stop, &used);
        if (i == at && !t->upright && !t->spaced && t->kind == T_LETTER &&
            ((name.length == 1 && !(used && !ans_is_whole(t - 1))) ||
             (name.length == 2 && row->dimension != U_LENGTH && row->dimension != U_MASS &&
              row->dimension != 3 * U_LENGTH)))
            break;
        ans_add_unit(w, unit, row, exponent, sign * power * own);
        i += n + used;
        end = i;
        sign = power = 1;
    }
    return end - at;
}

/* Three letters behind a space are a word if they have a vowel and are no row of the alphabet: "men", not "abc". */
static int ans_is_three_letter_word(polar_span s) {
    int vowels = 0;
    if (s.length != 3) return 0;
    for (int i = 0; i < 3; i++) vowels += strchr("aeiouy", ans_lower(s.text[i])) != NULL;
    return vowels && vowels < 3 && !(s.text[1] == s.text[0] + 1 || s.text[2] == s.text[1] + 1);
}

/* Tokens of a word at this place: two letters or more; 0 if letters there are a product. */
static int ans_word_tokens(const ans_work *w, int at, int stop) {
    const ans_token *t = &w->tokens[at];
    polar_span name;
    int n;
    if (at >= stop) return 0;
    if (t->kind == T_WORD || t->kind == T_QUALIFIER) return 1;
    n = ans_run(w, at, stop, &name);
    if (!n || t->kind == T_SYMBOL) return 0;
    if (name.length == 1 && (t->id == 'a') && t->spaced) return 1;
    if (ans_is_any(name, "of in on at by to an as so if is it he we are per for the was has had all can and but not "
                         "she who"))
        return n;
    return t->spaced && ans_is_three_letter_word(name) ? n : 0;
}

/* Words that change the value before them. */
static int ans_is_operation(const ans_work *w, int at, int stop) {
    polar_span name;
    const int n = ans_run(w, at, stop, &name);
    return ans_is_any(name, "times plus minus less more divided multiplied over mod modulo squared cubed factorial "
                            "choose point raised to out hundred thousand million billion trillion dozen percent "
                            "tenths hundredths") ||
           (ans_is_any(name, "of in per") && at + n < stop && w->tokens[at + n].kind == T_NUMBER);
}

/* 1 if the tokens from `at` on are words about the value before them: they begin with a word, or a bracket or a dash
 * before one; digits may follow, but no operation and no letter that could be a symbol. Behind a comma a calculation
 * may give the `reasons`, as in brackets. */
static int ans_is_prose(ans_work *w, int at, int stop, int reasons) {
    const ans_token *t = &w->tokens[at];
    int words = 0, opened = 0;
    if (ans_is_operation(w, at, stop)) return 0;
    if (ans_is_char(t, '-') && !(t->spaced && at + 1 < stop && t[1].spaced && ans_word_tokens(w, at + 1, stop)))
        return 0;
    if (!ans_is_char(t, '-') && !ans_is_char(t, '(') && !ans_is_char(t, '[') && !ans_word_tokens(w, at, stop)) return 0;
    opened = ans_is_char(t, '(') || ans_is_char(t, '[') || (reasons && t->kind == T_WORD);
    for (int i = at, n; i < stop; i += MAX(n, 1)) {
        polar_span name;
        n = ans_word_tokens(w, i, stop);
        words += n > 0;
        if (!ans_pay(w, 20)) return 0;
        if (n || opened) continue; /* in brackets there may be a calculation */
        if ((n = ans_run(w, i, stop, &name)) != 0 && name.length < 3 && !ans_is_any(name, "a")) {
            int exponent;
            if (!ans_find_unit(name, &exponent) || name.length < 2) return 0;
        }
        if (w->tokens[i].kind == T_RELATION || w->tokens[i].kind == T_FUNCTION || w->tokens[i].kind == T_ROOT) return 0;
    }
    return words > 0;
}

/* 1 if a value may end with this token. */
static int ans_is_value_end(const ans_token *t) {
    return t->kind == T_NUMBER || t->kind == T_LETTER || t->kind == T_SYMBOL || t->kind == T_CONSTANT ||
           t->kind == T_PERCENT || t->kind == T_DEGREE || t->kind == T_CLOSE_SET || ans_is_char(t, '}') ||
           ans_is_char(t, '!') || ans_is_char(t, ')') || ans_is_char(t, ']');
}

/* 1 if tokens have no symbols, words or sums: what a bare letter may be the unit of. */
static int ans_is_plain_value(const ans_work *w, int at, int stop) {
    for (int i = at; i < stop; i++) {
        const ans_token *t = &w->tokens[i];
        if (t->kind == T_LETTER || t->kind == T_WORD || t->kind == T_FUNCTION) return 0;
        if (i > at && (ans_is_char(t, '+') || ans_is_char(t, '-'))) return 0;
    }
    return 1;
}

/* The tokens of "per" or "/" at a place, else 0. */
static int ans_per(const ans_work *w, int at, int stop) {
    polar_span name;
    const int n = at < stop ? ans_run(w, at, stop, &name) : 0;
    return at < stop && ans_is_char(&w->tokens[at], '/') ? 1 : ans_is_any(name, "per") ? n : 0;
}

/* A word without its ending, so that singular and plural have one name: box, boxes; berry, berries. */
static uint64_t ans_stem(polar_span s) {
    uint64_t h = 1;
    while (s.length > 1 && strchr("esES", s.text[s.length - 1])) s.length--;
    for (size_t i = 0; i < s.length; i++) {
        const char c = ans_lower(s.text[i]);
        h = ans_mix(h, (uint64_t)(unsigned char)(c == 'y' ? 'i' : c));
    }
    return h;
}

/* Reads what is counted from words behind a value, also in brackets: "red balls" of "5 red balls in a box"; nothing of
 * "5 in all". What a word of `ends` begins is a remark, and words of `fillers` name nothing. */
static void ans_read_counted(ans_work *w, int at, int stop, ans_unit *unit) {
    static const char ends[] = "of in on at by to an a as so if is it he we she they are for the was were has had have "
                               "can will would and but not who that which from with because since when where after "
                               "before as than then out away";
    static const char fillers[] = "total altogether remaining remain remains left each every different unit units";
    int n;
    polar_span name;
    if (at < stop && (ans_is_char(&w->tokens[at], '(') || ans_is_char(&w->tokens[at], '['))) at++;
    for (; at < stop && unit->n_words < COUNT(unit->words); at += n) {
        if ((n = ans_per(w, at, stop)) != 0) continue;
        if ((n = ans_run(w, at, stop, &name)) == 0 || ans_is_any(name, ends)) break;
        if (!ans_is_any(name, fillers)) unit->words[unit->n_words++] = ans_stem(name);
    }
}

/* Where the value of an operand ends; behind it there may be a unit, which goes to *unit, and words. */
static int ans_value_stop(ans_work *w, int stop, ans_unit *unit) {
    int depth = 0;
    ans_unit_clear(w, unit);
    for (int i = w->at + 1; i < stop; i++) {
        const ans_token *t = &w->tokens[i], *before = t - 1;
        const int plain = before->kind == T_NUMBER || before->kind == T_DEGREE || ans_is_char(before, '}');
        int n = 0, per, bracket;
        depth += ans_bracket(before);
        if (!ans_pay(w, 1)) break;
        if (depth || !ans_is_value_end(before)) continue;
        if (t->kind != T_WORD && t->kind != T_LETTER && t->kind != T_FUNCTION && t->kind != T_SYMBOL &&
            t->kind != T_QUALIFIER && !ans_is_char(t, '(') && !ans_is_char(t, '[') && !ans_is_char(t, '-'))
            continue;
        if (t->kind == T_LETTER && !t->upright && (!plain || w->inner || !ans_is_plain_value(w, w->at, i))) {
            polar_span name; /* bare letters after \pi or a bracket: names of two letters only */
            if (w->inner || ans_run(w, i, stop, &name) < 2 || !ans_is_plain_value(w, w->at, i)) continue;
        }
        bracket = ans_is_char(t, '(') || ans_is_char(t, '[');
        if (t->kind != T_SYMBOL || *t->at == 'O') n = ans_read_unit(w, i + bracket, stop, unit);
        if (n && bracket) n = ans_bracket(&w->tokens[i + 1 + n]) < 0 ? n + 2 : 0;
        per = n ? ans_per(w, i + n, stop) : 0;
        if (n && i + n < stop && !ans_is_prose(w, i + n + per, stop, 0)) n = 0;
        if (n && per) ans_read_counted(w, i + n + per, stop, unit);
        if (n) return i;
        ans_unit_clear(w, unit);
        if (ans_is_prose(w, i, stop, 0)) {
            ans_read_counted(w, i, stop, unit);
            return i;
        }
    }
    return stop;
}

/* A value with its unit, whose words are children behind it. */
static int ans_quantity(ans_work *w, int value, const ans_unit *unit) {
    int n;
    if (!unit->dimension && !unit->n_words) return value;
    if (!value || (unit->unsaid && unit->dimension == U_LENGTH)) return value;
    if (unit->num.n <= 0 || unit->den.n <= 0) return ans_no(w);
    n = ans_node_new(w, N_QUANTITY);
    ans_append(w, n, value);
    for (int i = 0; i < unit->n_words; i++) {
        const int word = ans_node_new(w, N_SYMBOL);
        w->nodes[word].name = unit->words[i];
        ans_append(w, n, word);
    }
    w->nodes[n].id = unit->unsaid;
    w->nodes[n].num = unit->num;
    w->nodes[n].den = unit->den;
    w->nodes[n].name = (uint64_t)unit->dimension;
    return n;
}

/* Dollars, whose sign stands before the value, perhaps per what stands behind it. */
static void ans_read_price(ans_work *w, int at, int stop, ans_unit *unit) {
    const int per = ans_per(w, at, stop);
    ans_unit other;
    ans_unit_clear(w, unit);
    if (per && ans_read_unit(w, at + per, stop, &other)) {
        unit->num = other.den;
        unit->den = other.num;
        unit->dimension = -other.dimension;
    } else if (per) ans_read_counted(w, at + per, stop, unit);
    unit->dimension += U_MONEY;
}

/* "6 ft 2 in", "3 hours and 30 minutes": numbers with units of one kind, each smaller than the one before. Their sum in
 * the first unit; 0 without such a sum, with nothing read. */
static int ans_read_compound(ans_work *w) {
    const int start = w->at;
    int sum = 0, parts = 0, i = start;
    ans_unit first, unit;
    ans_unit_clear(w, &first);
    while (i + 1 < w->stop) {
        const ans_token *t = &w->tokens[i];
        int n, value, factor;
        if (parts && t->kind == T_SEPARATOR && t->id != SEPARATE_OR) t = &w->tokens[++i];
        if (parts && t->kind == T_SEPARATOR && t->id == SEPARATE_AND) t = &w->tokens[++i];
        if (i + 1 >= w->stop || t->kind != T_NUMBER || (n = ans_read_unit(w, i + 1, w->stop, &unit)) == 0) break;
        if (parts && unit.dimension != first.dimension) break;
        if (!parts) first = unit;
        value = ans_number(w, t);
        if (!value || w->failed) break;
        factor = ans_folded(w, 0, nat_multiply(w, unit.num, first.den), nat_multiply(w, unit.den, first.num), 0);
        if (!factor || (parts && !(w->nodes[factor].value < 1))) break;
        value = ans_fold(w, N_MULTIPLY, value, factor);
        sum = parts ? ans_fold(w, N_ADD, sum, value) : value;
        if (!sum) break;
        parts++;
        i += 1 + n;
        w->at = i;
    }
    if (parts < 2 || w->failed || (w->at < w->stop && !ans_ends_operand(ans_now(w)) && ans_bracket(ans_now(w)) >= 0)) {
        w->at = start;
        return 0;
    }
    return ans_quantity(w, sum, &first);
}

/* A name for a text: letters and digits without case, spaces and punctuation. */
static uint64_t ans_text_name(const ans_token *t, int n, const char *ignored) {
    uint64_t h = 1;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < t[i].length; k++)
            if (!strchr(ignored, t[i].at[k])) h = ans_mix(h, (uint64_t)(unsigned char)ans_lower(t[i].at[k]));
    return h;
}

/* 1 if a unit vector occurs in a tree. */
static int ans_has_basis(const ans_work *w, int node) {
    if (w->nodes[node].op == N_BASIS) return 1;
    for (int c = w->nodes[node].first; c; c = w->nodes[c].next)
        if (ans_has_basis(w, c)) return 1;
    return 0;
}

/* a i + b j + c k as (a, b, c), or (a, b) if no answer part has k. */
static int ans_vector(ans_work *w, int n) {
    int tuple;
    if (!ans_has_basis(w, n)) return n;
    tuple = ans_node_new(w, N_TUPLE);
    for (int i = 0; i < (w->side->basis & 4 ? 3 : 2); i++) ans_append(w, tuple, ans_copy(w, n, "ijk"[i]));
    w->nodes[tuple].flags |= PARTS;
    return tuple;
}

/* One side of a relation: words as one symbol, else a formula with its unit, else sets joined. */
static int ans_read_operand(ans_work *w) {
    ans_unit unit;
    const int money = w->tokens[w->at].money || (ans_is_char(&w->tokens[w->at], '-') && w->tokens[w->at + 1].money);
    int end = ans_operand_end(w), stop = ans_value_stop(w, end, &unit), outer = w->stop, n, words = 0, depth = 0;
    if ((n = ans_read_compound(w)) != 0) return n;
    for (int i = w->at; i < stop; i++) {
        depth += ans_bracket(&w->tokens[i]);
        words |= !depth && (w->tokens[i].kind == T_WORD || w->tokens[i].kind == T_QUALIFIER);
    }
    if (words) {
        n = ans_symbol(w, ans_text_name(w->tokens + w->at, end - w->at, "{}"));
        w->at = end;
        return n;
    }
    w->stop = stop;
    n = ans_read_sum(w);
    if (!w->failed && w->side->basis & (w->side->basis - 1)) n = ans_vector(w, n);
    for (int parts = 0; !w->failed && n && parts < 24; parts++) {
        const ans_token *t = ans_now(w);
        if (t->kind != T_UNION && t->kind != T_INTERSECTION && t->kind != T_WITHOUT) break;
        w->at++;
        n = ans_binary(w, t->kind == T_UNION ? N_UNION : t->kind == T_INTERSECTION ? N_INTERSECTION : N_WITHOUT, n,
                       ans_read_sum(w));
    }
    if (!w->failed && w->bars && ans_is_char(ans_now(w), '|')) end = stop = w->at; /* inside |...| */
    if (w->failed || w->at != stop) return ans_no(w);
    w->at = end;
    w->stop = outer;
    if (money && !unit.dimension) ans_read_price(w, stop, end, &unit);
    return ans_quantity(w, n, &unit);
}

/* Operands with relations between them: x = 5, 0 < x < 1. */
static int ans_read_relations(ans_work *w) {
    int n, relation;
    if (ans_now(w)->kind == T_RELATION && (ans_now(w)->id == REL_EQ || ans_now(w)->id == REL_ABOUT))
        w->at++; /* "= 5" */
    n = ans_read_operand(w);
    if (w->failed || ans_now(w)->kind != T_RELATION) return n;
    relation = ans_node_new(w, N_RELATION);
    ans_append(w, relation, n);
    while (!w->failed && ans_now(w)->kind == T_RELATION) {
        int id = ans_now(w)->id, operand;
        w->at++;
        operand = ans_read_operand(w);
        ans_append(w, relation, operand);
        w->nodes[operand].relation = (uint8_t)(id == REL_ABOUT ? REL_EQ : id);
        if (id == REL_ABOUT) w->nodes[relation].id = 1;
    }
    w->nodes[relation].flags |= PARTS;
    return relation;
}

/* Those, perhaps modulo something: what is left of x \equiv 3 \pmod 7 is 3 and 7. */
static int ans_read_item(ans_work *w) {
    int n = ans_read_relations(w), congruence;
    if (w->failed || ans_now(w)->kind != T_MODULUS) return n;
    w->at++;
    if (w->nodes[n].op == N_RELATION) n = w->nodes[n].last;
    congruence = ans_node_new(w, N_CONGRUENCE);
    ans_append(w, congruence, n);
    ans_append(w, congruence, ans_argument(w, 0));
    return congruence;
}

/* A list is a SET (without order) if it says "or"; id keeps "and" for inequalities. */
static int ans_read_list(ans_work *w) {
    int n = ans_read_item(w), list = 0;
    while (!w->failed && ans_now(w)->kind == T_SEPARATOR) {
        int id = ans_now(w)->id;
        if (!list && !w->inner && id != SEPARATE_OR && (w->nodes[n].op == N_NUMBER || w->nodes[n].op == N_QUANTITY) &&
            ans_is_prose(w, w->at + 1, w->stop, 1)) {
            w->at = w->stop; /* "5, which is prime", "15 boys and girls" */
            break;
        }
        w->at++;
        if (ans_now(w)->kind == T_SEPARATOR) id = MAX(id, ans_now(w)->id), w->at++; /* ", and" */
        if (!list) {
            list = ans_node_new(w, N_LIST);
            ans_append(w, list, n);
        }
        ans_append(w, list, ans_read_item(w));
        if (id == SEPARATE_OR) w->nodes[list].op = N_SET;
        w->nodes[list].id = MAX(w->nodes[list].id, id);
    }
    if (list) w->nodes[list].flags |= PARTS;
    return list ? list : n;
}

/* Reads a side into w->nodes; root 0 if it is no formula. */
static void ans_read(ans_work *w, ans_side *side) {
    w->side = side;
    w->tokens = side->tokens;
    w->at = w->depth = w->failed = w->bars = w->inner = w->has_i = 0;
    w->index = 0;
    for (int i = 0; i < side->n_tokens; i++)
        w->has_i |= side->tokens[i].kind == T_LETTER && side->tokens[i].id == 'i';
    w->stop = side->n_tokens;
    side->root = side->n_tokens && side->balanced ? ans_read_list(w) : 0;
    if (side->root && ans_accept_kind(w, T_OVER)) side->root = ans_binary(w, N_DIVIDE, side->root, ans_read_list(w));
    if (w->failed || w->at != side->n_tokens) side->root = 0;
}

/* --- evaluation ---
 * A tree has a value at each probe: an assignment of numbers to all symbols, fixed by their names. Two formulas that
 * agree to nine digits at the probes are equal: an identity of analytic functions that holds at several unrelated
 * places by chance does not occur in answers. Branches are principal, log is ln, i is the imaginary unit. */

#define ANS_PROBES 8

/* The value of a symbol: fixed by its name and the number of the probe, in +-(0.3 .. 2.3); the first three probes
 * are positive, so that roots and logarithms of symbols have real values there; two are further out, where absolute
 * values show what they are. */
static cx ans_symbol_value(ans_work *w, uint64_t name) {
    uint64_t h;
    double v;
    for (int i = w->n_bound - 1; i >= 0; i--)
        if (w->bound_name[i] == name) return cx_real(w->bound_value[i]);
    h = ans_mix(name, 1000 + (uint64_t)w->probe);
    v = 0.3 + (double)(h >> 12) / 2251799813685248.0;
    if (w->probe == 3 || w->probe == 4) return cx_real(w->probe == 3 ? -7 - v : 7 + v);
    return cx_real(w->probe >= 3 && h & 1 ? -v : v);
}

/* 1 for infinity, -1 for minus infinity, else 0. */
static int ans_infinity_sign(const ans_work *w, int n) {
    const ans_node *p = &w->nodes[n];
    if (p->op == N_NEGATE) return -ans_infinity_sign(w, p->first);
    return p->op == N_CONSTANT && p->id == CONST_INFINITY;
}

static cx ans_value(ans_work *w, int node);

/* A smooth function that no one knows, of any number of arguments: equal calls have equal values. */
static cx ans_opaque_value(ans_work *w, const ans_node *n) {
    uint64_t h = ans_mix(n->name, (uint64_t)n->n);
    cx sum = cx_real(1 + ans_fraction(h));
    for (int c = n->first; c; c = w->nodes[c].next) {
        cx v = ans_value(w, c), square = cx_multiply(v, v);
        sum = cx_scale(sum, 0.5 + ans_fraction(h = ans_mix(h, 1)));
        sum = cx_add(sum, cx_scale(v, 0.5 + ans_fraction(h = ans_mix(h, 2))));
        sum = cx_add(sum, cx_scale(square, 0.5 + ans_fraction(h = ans_mix(h, 3))));
    }
    return sum;
}

/* The sum or the product from `low` to `high`, or until nothing more is added. NaN if a thousand terms are not
 * enough. */
static cx ans_sum_terms(ans_work *w, int multiplied, int body, double low, double high) {
    cx r = cx_real(multiplied ? 1 : 0);
    int small = 0;
    for (double k = low; k <= high; k += 1) {
        cx term;
        if (k - low >= 1000 || w->budget <= 0) return cx_nan();
        w->bound_value[w->n_bound - 1] = k;
        term = ans_value(w, body);
        r = multiplied ? cx_multiply(r, term) : cx_add(r, term);
        small = !multiplied && cx_size(term) <= 1e-17 * cx_size(r) ? small + 1 : 0;
        if (small == 4 && high - high != 0) break; /* an infinite sum that converges fast */
    }
    return r;
}

/* Sums and products between numbers are calculated; others are opaque, their body taken at one place. */
static cx ans_sum_value(ans_work *w, const ans_node *n) {
    int lower = n->first, upper = w->nodes[lower].next, body = w->nodes[upper].next;
    int endless = ans_infinity_sign(w, upper) > 0, numbers = !((w->nodes[lower].flags | w->nodes[upper].flags) & FREE);
    cx a = ans_value(w, lower), b = endless ? cx_real(4321.1) : ans_value(w, upper), r;
    if (w->n_bound >= COUNT(w->bound_name)) return cx_nan();
    w->bound_name[w->n_bound++] = n->name;
    r = cx_nan();
    if (numbers && a.im == 0 && b.im == 0 && floor(a.re) == a.re && (endless || floor(b.re) == b.re))
        r = ans_sum_terms(w, n->id, body, a.re, endless ? INFINITY : b.re);
    if (!cx_finite(r)) {
        w->bound_value[w->n_bound - 1] = 0.7390851;
        r = ans_value(w, body);
        r = cx_add(cx_multiply(r, cx_add(a, cx_real(2.3))),
                   cx_multiply(cx_multiply(b, b), cx_add(r, cx_scale(a, 0.7 + n->id))));
    }
    w->n_bound--;
    return r;
}

static cx ans_reciprocal(cx z) {
    return cx_divide(cx_real(1), z);
}

/* Greatest common divisor of whole numbers by Euclid. */
static cx ans_gcd(cx a, cx b) {
    double x = fabs(a.re), y = fabs(b.re);
    if (a.im != 0 || b.im != 0 || floor(x) != x || floor(y) != y || x > 1e15 || y > 1e15) return cx_nan();
    while (y > 0) {
        double r = x - floor(x / y) * y;
        x = y;
        y = r;
    }
    return cx_real(x);
}

/* Floor or ceiling; values that are whole but for rounding errors are whole. */
static cx ans_round(cx z, ans_function f) {
    double near = floor(z.re + 0.5); /* 2.9999999999999996 is 3 */
    if (z.im != 0) return cx_nan();
    if (fabs(z.re - near) <= 4 * z.err + 1e-12) return cx_real(near);
    return cx_real(f == F_FLOOR ? floor(z.re) : floor(z.re) + 1);
}

/* Functions of two or more arguments: the first two, then the result and the next. */
static cx ans_many_value(ans_function f, cx a, cx b) {
    switch (f) {
    case F_MAX: return a.im != 0 || b.im != 0 ? cx_nan() : a.re >= b.re ? a : b;
    case F_MIN: return a.im != 0 || b.im != 0 ? cx_nan() : a.re <= b.re ? a : b;
    case F_GCD: return ans_gcd(a, b);
    case F_LCM: return a.re == 0 || b.re == 0 ? cx_real(0) : cx_divide(cx_multiply(a, b), ans_gcd(a, b));
    case F_PERMUTATION: return cx_divide(cx_factorial(a), cx_factorial(cx_subtract(a, b)));
    case F_MODULUS:
        return a.im != 0 || b.im != 0 ? cx_nan() : cx_make(a.re - b.re * floor(a.re / b.re), 0, a.err + b.err);
    case F_BINOMIAL:
        return cx_divide(cx_factorial(a), cx_multiply(cx_factorial(b), cx_factorial(cx_subtract(a, b))));
    default: return cx_nan();
    }
}

/* Functions of one argument. */
static cx ans_function_value(ans_function f, cx z) {
    switch (f) {
    case F_SIN: return cx_sin(z);
    case F_COS: return cx_cos(z);
    case F_TAN: return cx_divide(cx_sin(z), cx_cos(z));
    case F_COT: return cx_divide(cx_cos(z), cx_sin(z));
    case F_SEC: return ans_reciprocal(cx_cos(z));
    case F_CSC: return ans_reciprocal(cx_sin(z));
    case F_ARCSIN: return cx_arcsin(z);
    case F_ARCCOS: return cx_arccos(z);
    case F_ARCTAN: return cx_arctan(z);
    case F_ARCCOT: return cx_arctan(ans_reciprocal(z));
    case F_ARCSEC: return cx_arccos(ans_reciprocal(z));
    case F_ARCCSC: return cx_arcsin(ans_reciprocal(z));
    case F_SINH: return cx_sinh(z);
    case F_COSH: return cx_cosh(z);
    case F_TANH: return cx_divide(cx_sinh(z), cx_cosh(z));
    case F_COTH: return cx_divide(cx_cosh(z), cx_sinh(z));
    case F_SECH: return ans_reciprocal(cx_cosh(z));
    case F_CSCH: return ans_reciprocal(cx_sinh(z));
    case F_ARSINH: return cx_arsinh(z);
    case F_ARCOSH: return cx_arcosh(z);
    case F_ARTANH: return cx_artanh(z);
    case F_LN: return cx_log(z);
    case F_LG: return cx_scale(cx_log(z), 0.43429448190325182765);
    case F_EXP: return cx_exp(z);
    case F_RE: return cx_make(z.re, 0, z.err);
    case F_IM: return cx_make(z.im, 0, z.err);
    case F_ARG: z = cx_log(z); return cx_make(z.im, 0, z.err);
    case F_SGN: return cx_real(z.re > 0 ? 1 : z.re < 0 ? -1 : 0);
    case F_ABS: return cx_make(hypot(z.re, z.im), 0, z.err + ANS_EPS * cx_size(z));
    case F_SQRT: return cx_sqrt(z);
    case F_FLOOR: case F_CEILING: return ans_round(z, f);
    case F_FACTORIAL: return cx_factorial(z);
    case F_MAX: case F_MIN: return z;
    case F_CONJUGATE: return cx_make(z.re, -z.im, z.err);
    case F_CIS: return cx_add(cx_cos(z), cx_times_i(cx_sin(z)));
    default: return cx_nan();
    }
}

/* Minor of the rows from `row` on and the columns that are not in `used`, by the cells of the row. */
static cx ans_minor(ans_work *w, const int *cells, int n, int row, unsigned used) {
    cx sum = cx_real(row == n);
    double sign = 1;
    for (int k = 0; row < n && k < n; k++) {
        if (used & 1u << k) continue;
        sum = cx_add(sum, cx_scale(cx_multiply(ans_value(w, cells[row * n + k]),
                                               ans_minor(w, cells, n, row + 1, used | 1u << k)),
                                   sign));
        sign = -sign;
    }
    return sum;
}

/* The determinant of a matrix up to 5 by 5. */
static cx ans_determinant(ans_work *w, const ans_node *m) {
    int cells[25], k = 0;
    if (m->op != N_MATRIX || m->n != m->id * m->id || m->id > 5) return cx_nan();
    for (int c = m->first; c; c = w->nodes[c].next) cells[k++] = c;
    return ans_minor(w, cells, m->id, 0, 0);
}

/* A call with its arguments. Inside of trigonometric functions degrees are angles. */
static cx ans_call_value(ans_work *w, const ans_node *n) {
    ans_function f = (ans_function)n->id;
    int outer = w->in_angle, c = n->first;
    cx a;
    if (!ans_pay(w, f == F_FACTORIAL ? 300 : f == F_BINOMIAL ? 900 : 50)) return cx_nan();
    if (f == F_DET) return ans_determinant(w, &w->nodes[c]);
    w->in_angle = f <= F_CSC || f == F_CIS;
    a = ans_value(w, c);
    if (n->n == 1) a = ans_function_value(f, a);
    else
        while ((c = w->nodes[c].next) != 0) a = ans_many_value(f, a, ans_value(w, c));
    w->in_angle = outer;
    return a;
}

/* \sqrt[k]{x}: the real root of a negative number where k is odd, else the principal one. */
static cx ans_root_value(ans_work *w, const ans_node *n) {
    int radicand = n->first, index = w->nodes[radicand].next, k;
    cx x = ans_value(w, radicand), power = ans_reciprocal(ans_value(w, index));
    if (!(w->nodes[radicand].flags & FREE) && x.im == 0 && x.re < 0 && ans_small_integer(w, index, &k) && k % 2)
        return cx_negate(cx_power(cx_negate(x), power));
    return cx_power(x, power);
}

/* pi, e, i; infinities have no value. */
static cx ans_constant_value(int id) {
    if (id == CONST_PI) return cx_make(ANS_PI, 0, ANS_EPS);
    if (id == CONST_E) return cx_make(2.71828182845904523536, 0, ANS_EPS);
    if (id == CONST_I) return cx_make(0, 1, 0);
    return cx_nan();
}

/* The value of a tree at the current probe; NaN for what has none. Recursion is bounded by ANS_HEIGHT. */
static cx ans_value(ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    cx a, b;
    if (!node || !ans_pay(w, 5)) return cx_nan();
    switch (n->op) {
    case N_NUMBER:
        return cx_make(n->value, 0, nat_is_one(w, n->den) && n->num.n < 2 ? 0 : 2 * ANS_EPS * fabs(n->value));
    case N_SYMBOL: return ans_symbol_value(w, n->name);
    case N_CONSTANT: return ans_constant_value(n->id);
    case N_CALL: return ans_call_value(w, n);
    case N_ROOT: return ans_root_value(w, n);
    case N_OPAQUE: return ans_opaque_value(w, n);
    case N_SUM: return ans_sum_value(w, n);
    case N_QUANTITY: return ans_value(w, n->first);
    case N_SET: return n->n == 1 ? ans_value(w, n->first) : cx_nan();
    case N_NEGATE: return cx_negate(ans_value(w, n->first));
    case N_DEGREE: a = ans_value(w, n->first); return w->in_angle ? cx_scale(a, ANS_PI / 180) : a;
    }
    if (n->op >= N_LIST || n->n != 2) return cx_nan();
    a = ans_value(w, n->first);
    b = ans_value(w, w->nodes[n->first].next);
    switch (n->op) {
    case N_ADD: return cx_add(a, b);
    case N_PLUS_MINUS: return w->sign > 0 ? cx_add(a, b) : cx_subtract(a, b);
    case N_MULTIPLY: return cx_multiply(a, b);
    case N_DIVIDE: return cx_divide(a, b);
    case N_POWER:
        return w->nodes[n->first].op == N_CONSTANT && w->nodes[n->first].id == CONST_E ? cx_exp(b) : cx_power(a, b);
    }
    return cx_nan();
}

/* --- equality ---
 * What is tried, in this order; the first that applies decides:
 *
 *     the same tokens, words, times or choices      \text{Evelyn} = evelyn, 1:03 PM = 13:03, (B) = b
 *     relations among themselves                    y = 2x = y - 2x = 0, 5 > x = x < 5
 *     the results of equations                      x = 5 = 5, (p,q) = (3,2) = (3,2)
 *     sets of real numbers                          x \ge 2 = [2,\infty), [0,1] \cup [1,2] = [0,2]
 *     collections, element by element               (1,2) = 1,2 = \begin{pmatrix} 1 \\ 2 \end{pmatrix}
 *     values                                        \frac{1}{\sqrt 2} = \sin 45^\circ, 50\% = 0.5 */

/* A part of an answer: a node, and which sign its \pm takes; 0: both, which makes it two parts. */
typedef struct ans_part {
    int node, sign;
} ans_part;

/* A node as a part; the value of a part. */
static ans_part ans_whole(int node) {
    ans_part p;
    p.node = node;
    p.sign = 0;
    return p;
}

static cx ans_part_value(ans_work *w, ans_part p) {
    w->sign = p.sign;
    w->in_angle = w->n_bound = 0;
    return ans_value(w, p.node);
}

/* Equal to nine digits, or both zero as far as can be told; -1 if a value is not finite. */
static int cx_equal(cx a, cx b) {
    double d, m, e;
    if (!cx_finite(a) || !cx_finite(b)) return -1;
    d = cx_size(cx_make(a.re - b.re, a.im - b.im, 0));
    m = MAX(cx_size(a), cx_size(b));
    e = 8 * (a.err + b.err);
    return (d <= 1e-9 * m && e <= 1e-3 * m) || (d <= e && e < 1e-10);
}

/* 50% is 50 and 0.5, and without the sign 0.5 is 50: p is a hundred times h. To three digits, as the reference does
 * it; both are between 0 and 100, neither is 1. Without a sign one of them is a share below 1, for 3 apples are not
 * 300. */
static int ans_same_percent(double p, double h, int sign) {
    double q = p / 100;
    if (!(p > 0 && p < 100 && p != 1 && h > 0 && h < 100 && h != 1)) return 0;
    if (!sign && !(h < 1 && p > 1)) return 0;
    return fabs(h - q) <= 1e-3 * MAX(h, q);
}

/* The same for two values with the flags of their nodes; 50 cm are not 0.5 cm. */
static int ans_same_share(const ans_work *w, double a, int a_flags, double b, int b_flags) {
    int a_sign = a_flags & PERCENT, b_sign = b_flags & PERCENT;
    if ((a_sign && b_sign) || w->in_units) return 0;
    if (!a_sign && !b_sign && !(a_flags & b_flags & PLAIN)) return 0;
    return (!b_sign && ans_same_percent(a, b, a_sign)) || (!a_sign && ans_same_percent(b, a, b_sign));
}

/* Two exact numbers. Without a decimal point there is no tolerance. */
static int ans_same_rational(ans_work *w, int i, int k) {
    const ans_node *a = &w->nodes[i], *b = &w->nodes[k];
    natural x = nat_multiply(w, a->num, b->den), y = nat_multiply(w, b->num, a->den);
    double m = MAX(fabs(a->value), fabs(b->value));
    int plain = a->flags & b->flags & PLAIN;
    if (x.n >= 0 && y.n >= 0 && a->negative == b->negative && !nat_compare(w, x, y)) return 1;
    if (!(m < 1e300)) return 0;
    if (((a->flags | b->flags) & DECIMAL) && fabs(a->value - b->value) <= 1e-9 * m) return 1;
    if (plain && ((a->flags | b->flags) & DECIMAL) && (m >= 0.1 || a->value == 0 || b->value == 0) &&
        fabs(a->value - b->value) <= 1e-8)
        return 1;
    return ans_same_share(w, a->value, a->flags, b->value, b->flags);
}

/* Two formulas: exact numbers exactly, constants by value, others by their values at the probes, of which
 * three must be finite at least and none may differ. */
static int ans_same_value(ans_work *w, ans_part a, ans_part b) {
    const ans_node *x = &w->nodes[a.node], *y = &w->nodes[b.node];
    int agreed = 0, symbols = (x->flags | y->flags) & FREE, s;
    if (x->op == N_SYMBOL && y->op == N_SYMBOL && x->name == y->name) return 1;
    if ((s = ans_infinity_sign(w, a.node)) != 0 || ans_infinity_sign(w, b.node))
        return s == ans_infinity_sign(w, b.node);
    if (x->op == N_CONSTANT && y->op == N_CONSTANT) return x->id == y->id;
    if (ans_is_exact(w, a.node) && ans_is_exact(w, b.node)) return ans_same_rational(w, a.node, b.node);
    for (w->probe = 0; w->probe < (symbols ? ANS_PROBES : 1); w->probe++) {
        cx p = ans_part_value(w, a), q = ans_part_value(w, b);
        int same = cx_equal(p, q);
        if (!same) return !symbols && p.im == 0 && q.im == 0 && ans_same_share(w, p.re, x->flags, q.re, y->flags);
        agreed += same > 0;
    }
    return w->budget > 0 && agreed >= (symbols ? 3 : 1);
}

static int ans_same(ans_work *w, ans_part a, ans_part b);

/* AB, ABC: a figure and its sides. "xy = 6" gives no value to anything. */
static int ans_is_capitals(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    if (n->op == N_MULTIPLY) return ans_is_capitals(w, n->first) && ans_is_capitals(w, n->last);
    return n->op == N_SYMBOL && n->id == ID_CAPITAL;
}

/* 1 for d, dy, d^2y: what stands in a derivative. */
static int ans_is_differential(const ans_work *w, int node) {
    while (w->nodes[node].op == N_MULTIPLY || w->nodes[node].op == N_POWER) node = w->nodes[node].first;
    return w->nodes[node].op == N_SYMBOL && w->nodes[node].name == ans_hash("d", 1);
}

/* A name that can stand left of "=": a variable, f(x), AB, dy/dx, a sum that is calculated on the right. */
static int ans_is_name(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    if (n->op == N_SUM) return 1;
    if (n->op == N_DIVIDE) return ans_is_differential(w, n->first) && ans_is_differential(w, n->last);
    if (n->op == N_SYMBOL || n->op == N_OPAQUE || (n->flags & APPLIED)) return 1;
    if (n->op == N_CONSTANT) return n->id == CONST_E || n->id == CONST_I; /* the letters, here as names */
    return n->op == N_MULTIPLY && ans_is_capitals(w, node);
}

/* A quantity that may be named when the other side is a value: |AB|, (p,q), a/b, \sin x. */
static int ans_is_quantity(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    if (ans_is_name(w, node)) return 1;
    if (n->op != N_CALL && n->op != N_TUPLE && n->op != N_DIVIDE && n->op != N_LIST && n->op != N_DEGREE) return 0;
    for (int c = n->first; c; c = w->nodes[c].next)
        if (!ans_is_quantity(w, c)) return 0;
    return 1;
}

/* What an equation gives as its result: "x = 5" gives 5, "x \in S" gives S, "a = b = c" gives c; other nodes are
 * their own result. */
static int ans_result(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    int left, last, id;
    if (n->op != N_RELATION) return node;
    left = n->first;
    last = n->last;
    for (int c = w->nodes[left].next; c; c = w->nodes[c].next)
        if (w->nodes[c].relation != REL_EQ && !(w->nodes[c].relation == REL_IN && n->n == 2)) return node;
    id = w->nodes[last].relation;
    if (n->n > 2 || id == REL_IN || ans_is_name(w, left)) return last;
    if (w->nodes[last].flags & FREE) return node;
    return ans_is_quantity(w, left) || !(w->nodes[left].flags & FREE) ? last : node;
}

/* --- equations and inequalities */

/* left - right of an equation. */
static cx ans_difference(ans_work *w, int relation) {
    int left = w->nodes[relation].first;
    cx a = ans_part_value(w, ans_whole(left));
    return cx_subtract(a, ans_part_value(w, ans_whole(w->nodes[left].next)));
}

/* The constant c with left - right of one = c (left - right of the other) at all probes, as its sign; 0 without. */
static int ans_proportional(ans_work *w, int a, int b) {
    cx first = cx_nan();
    int agreed = 0;
    if (w->nodes[a].n != 2 || w->nodes[b].n != 2 || !(w->nodes[a].flags & w->nodes[b].flags & FREE)) return 0;
    for (w->probe = 0; w->probe < ANS_PROBES; w->probe++) {
        cx q = cx_divide(ans_difference(w, a), ans_difference(w, b));
        if (!cx_finite(q)) continue;
        if (cx_size(q) < 1e-6 || (agreed && cx_equal(q, first) != 1)) return 0;
        first = q;
        agreed++;
    }
    if (agreed < 3) return 0;
    return first.im != 0 || first.re > 0 ? 1 : -1;
}

/* The relation read from the right: < becomes >. */
static int ans_mirrored(int relation) {
    switch (relation) {
    case REL_LT: return REL_GT;
    case REL_LE: return REL_GE;
    case REL_GT: return REL_LT;
    case REL_GE: return REL_LE;
    default: return relation;
    }
}

/* Chains with the same signs and operands, read from the left or one of them from the right. */
static int ans_same_chain(ans_work *w, int a, int b, int mirror) {
    int n = w->nodes[a].n;
    if (w->nodes[b].n != n) return 0;
    for (int i = 0; i < n; i++) {
        int x = ans_child(w, a, i), y = ans_child(w, b, mirror ? n - 1 - i : i);
        int sign = mirror ? (i ? ans_mirrored(w->nodes[ans_child(w, b, n - i)].relation) : 0) : w->nodes[y].relation;
        if (i && w->nodes[x].relation != sign) return 0;
        if (!ans_same(w, ans_whole(x), ans_whole(y))) return 0;
    }
    return 1;
}

/* Equations and inequalities: the same chain, or left - right proportional (for inequalities with a factor
 * whose sign turns the relation if it is negative). */
static int ans_same_relation(ans_work *w, int a, int b) {
    int r = w->nodes[w->nodes[a].last].relation, s = w->nodes[w->nodes[b].last].relation, sign;
    if (ans_same_chain(w, a, b, 0)) return 1;
    if (r != REL_IN && r != REL_TO && s != REL_IN && ans_same_chain(w, a, b, 1)) return 1;
    if (r > REL_GE || s > REL_GE || (r <= REL_NE) != (s <= REL_NE) || (r <= REL_NE && r != s)) return 0;
    if ((sign = ans_proportional(w, a, b)) == 0) return 0;
    return r <= REL_NE || r == (sign > 0 ? s : ans_mirrored(s));
}

/* --- regions: sets of real numbers as intervals */

typedef struct ans_interval {
    double low, high;
    int low_open, high_open;
} ans_interval;

typedef struct ans_region {
    int n; /* -1: no set of real numbers */
    ans_interval part[24];
} ans_region;

/* A real constant, or an infinity. */
static int ans_real(ans_work *w, int node, double *x) {
    cx v;
    int sign = ans_infinity_sign(w, node);
    if (sign) return *x = sign > 0 ? INFINITY : -INFINITY, 1;
    if (w->nodes[node].flags & (FREE | BOTH_SIGNS)) return 0;
    v = ans_part_value(w, ans_whole(node));
    *x = v.re;
    return cx_finite(v) && fabs(v.im) <= 1e-9 * fabs(v.re);
}

/* As the comparison of numbers: equal to nine digits. */
static int ans_near(double x, double y) {
    double m = MAX(fabs(x), fabs(y));
    return x == y || (m - m == 0 && fabs(x - y) <= 1e-9 * m) || fabs(x - y) < 1e-12;
}

/* Adds an interval; too many make the region one that cannot be calculated. */
static void ans_region_add(ans_region *r, double low, double high, int low_open, int high_open) {
    ans_interval *p = &r->part[MAX(r->n, 0)];
    if (r->n < 0) return;
    if (r->n >= COUNT(r->part)) {
        r->n = -1;
        return;
    }
    p->low = low;
    p->high = high;
    p->low_open = low_open || low - low != 0; /* infinite ends are open */
    p->high_open = high_open || high - high != 0;
    r->n++;
}

/* Sorts the intervals and joins those that overlap or touch. */
static void ans_region_tidy(ans_region *r) {
    int n = 0;
    for (int i = 1; i < r->n; i++)
        for (int k = i; k && (r->part[k].low < r->part[k - 1].low ||
                              (r->part[k].low == r->part[k - 1].low && r->part[k].low_open < r->part[k - 1].low_open));
             k--) {
            ans_interval t = r->part[k];
            r->part[k] = r->part[k - 1];
            r->part[k - 1] = t;
        }
    for (int i = 1; i < r->n; i++) {
        ans_interval *a = &r->part[n], *b = &r->part[i];
        int touch = ans_near(a->high, b->low);
        if (touch ? a->high_open && b->low_open : b->low > a->high) r->part[++n] = *b;
        else if (ans_near(a->high, b->high)) a->high_open = a->high_open && b->high_open;
        else if (b->high > a->high) a->high = b->high, a->high_open = b->high_open;
    }
    if (r->n > 0) r->n = n + 1;
}

/* Operations on regions: union, intersection, complement. */
static ans_region ans_region_empty(void) {
    ans_region r;
    r.n = 0;
    return r;
}

static ans_region ans_region_join(ans_region a, const ans_region *b) {
    if (b->n < 0) a.n = -1;
    for (int i = 0; i < b->n; i++)
        ans_region_add(&a, b->part[i].low, b->part[i].high, b->part[i].low_open, b->part[i].high_open);
    ans_region_tidy(&a);
    return a;
}

static ans_region ans_region_meet(const ans_region *a, const ans_region *b) {
    ans_region r = ans_region_empty();
    if (a->n < 0 || b->n < 0) r.n = -1;
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++) {
            const ans_interval *p = &a->part[i], *q = &b->part[k];
            double low = MAX(p->low, q->low), high = MIN(p->high, q->high);
            int low_open = (p->low == low && p->low_open) || (q->low == low && q->low_open);
            int high_open = (p->high == high && p->high_open) || (q->high == high && q->high_open);
            if (low < high || (low == high && !low_open && !high_open))
                ans_region_add(&r, low, high, low_open, high_open);
        }
    ans_region_tidy(&r);
    return r;
}

static ans_region ans_region_complement(const ans_region *a) {
    ans_region r = ans_region_empty();
    double low = -INFINITY;
    int open = 1;
    if (a->n < 0) return *a;
    for (int i = 0; i < a->n; i++) {
        const ans_interval *p = &a->part[i];
        if (low < p->low || (low == p->low && !open && p->low_open))
            ans_region_add(&r, low, p->low, open, !p->low_open);
        low = p->high;
        open = !p->high_open;
    }
    if (low - low == 0 || !a->n) ans_region_add(&r, low, INFINITY, open, 1);
    return r;
}

/* The name of the only symbol of a tree, 0 if there are others or unknown functions. */
static uint64_t ans_only_symbol(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    uint64_t name = n->op == N_SYMBOL ? n->name : 0;
    if (n->op == N_OPAQUE || n->op == N_SUM || n->op >= N_LIST) return 0;
    for (int c = n->first; c; c = w->nodes[c].next) {
        uint64_t other;
        if (!(w->nodes[c].flags & FREE)) continue;
        other = ans_only_symbol(w, c);
        if (!other || (name && name != other)) return 0;
        name = other;
    }
    return name;
}

/* 1 if a tree is slope * x + offset for its only symbol x. */
static int ans_is_linear(ans_work *w, int node, double *slope, double *offset) {
    const uint64_t name = ans_only_symbol(w, node);
    double y[3];
    if (!name) return 0;
    for (int x = 0; x < 3; x++) {
        cx v;
        w->sign = w->in_angle = 0;
        w->n_bound = 1;
        w->bound_name[0] = name;
        w->bound_value[0] = x;
        v = ans_value(w, node);
        if (!cx_finite(v) || v.im != 0) return 0;
        y[x] = v.re;
    }
    w->n_bound = 0;
    *slope = y[1] - y[0];
    *offset = y[0];
    return *slope != 0 && fabs(y[2] - y[1] - *slope) <= 1e-12 * (fabs(y[2]) + fabs(y[1]) + fabs(y[0]));
}

/* The bars of |ax + b|. */
static int ans_is_bars(const ans_work *w, int node) {
    return w->nodes[node].op == N_CALL && w->nodes[node].id == F_ABS && (w->nodes[node].flags & FREE);
}

/* The numbers x for which a term, ax + b or |ax + b|, lies in a region; n < 0 if it is neither. */
static ans_region ans_region_solved(ans_work *w, ans_region r, int term) {
    ans_region out = ans_region_empty();
    const int bars = ans_is_bars(w, term);
    double slope = 1, offset = 0;
    if (r.n < 0 || !ans_is_linear(w, bars ? w->nodes[term].first : term, &slope, &offset)) return r.n = -1, r;
    if (bars) {
        ans_region positive = ans_region_empty(), mirrored = ans_region_empty();
        ans_region_add(&positive, 0, INFINITY, 0, 1);
        r = ans_region_meet(&r, &positive);
        for (int i = 0; i < r.n; i++)
            ans_region_add(&mirrored, -r.part[i].high, -r.part[i].low, r.part[i].high_open, r.part[i].low_open);
        r = ans_region_join(r, &mirrored);
    }
    for (int i = 0; i < r.n; i++) {
        const ans_interval *p = &r.part[i];
        const double low = (p->low - offset) / slope, high = (p->high - offset) / slope;
        if (slope > 0) ans_region_add(&out, low, high, p->low_open, p->high_open);
        else ans_region_add(&out, high, low, p->high_open, p->low_open);
    }
    if (r.n < 0) out.n = -1;
    ans_region_tidy(&out);
    return out;
}

/* x < 3, 0 < x <= 2, x != 5, x = 1 for any variable x; |2x - 1| < 3. */
static ans_region ans_relation_region(ans_work *w, const ans_node *n) {
    ans_region r = ans_region_empty();
    double low = -INFINITY, high = INFINITY, v;
    int low_open = 1, high_open = 1, term = 0;
    for (int c = n->first; c; c = w->nodes[c].next) {
        int next = w->nodes[c].next, here = w->nodes[c].relation, after = next ? w->nodes[next].relation : 0;
        if (!term && (ans_is_name(w, c) || (w->nodes[c].flags & FREE))) {
            term = c;
            continue;
        }
        if (!ans_real(w, c, &v)) return r.n = -1, r;
        here = term ? here : ans_mirrored(after); /* the sign between the variable and this value */
        if (here == REL_LT || here == REL_LE) high = MIN(high, v), high_open = here == REL_LT;
        else if (here == REL_GT || here == REL_GE) low = MAX(low, v), low_open = here == REL_GT;
        else if (here == REL_EQ && n->n == 2) low = high = v, low_open = high_open = 0;
        else if (here == REL_NE && n->n == 2 && !r.n) {
            ans_region_add(&r, low, v, 1, 1);
            ans_region_add(&r, v, high, 1, 1);
        } else return r.n = -1, r;
    }
    if (!term || n->n > 3) r.n = -1;
    else if (!r.n && low <= high) ans_region_add(&r, low, high, low_open, high_open);
    else if (!r.n && !ans_is_bars(w, term)) r.n = -1;
    return ans_is_name(w, term) ? r : ans_region_solved(w, r, term);
}

/* The region that a node describes. Lists of inequalities hold together if they can, else in turn. */
static ans_region ans_region_of(ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    ans_region r = ans_region_empty(), a, b;
    double x, y;
    int c = n->first;
    r.n = -1;
    switch (n->op) {
    case N_CONSTANT:
        r.n = n->id == CONST_EMPTY || n->id == CONST_REALS ? 0 : -1;
        if (n->id == CONST_REALS)
            ans_region_add(&r, -INFINITY, INFINITY, 1, 1);
        break;
    case N_TUPLE:
        if (n->n == 2 && n->id < 4 && ans_real(w, c, &x) && ans_real(w, w->nodes[c].next, &y) && x < y) {
            r.n = 0;
            ans_region_add(&r, x, y, !(n->id & 1), !(n->id & 2));
        }
        break;
    case N_RELATION:
        return ans_result(w, node) != node && w->nodes[n->last].relation == REL_IN ? ans_region_of(w, n->last)
                                                                                   : ans_relation_region(w, n);
    case N_UNION: case N_INTERSECTION: case N_WITHOUT:
        a = ans_region_of(w, c);
        b = ans_region_of(w, w->nodes[c].next);
        if (n->op == N_UNION) return ans_region_join(a, &b);
        if (n->op == N_WITHOUT) b = ans_region_complement(&b);
        return ans_region_meet(&a, &b);
    case N_LIST: case N_SET: /* points, or inequalities that hold together or in turn */
        for (r.n = 0; c && r.n >= 0; c = w->nodes[c].next)
            if (w->nodes[c].op == N_RELATION) {
                a = ans_region_of(w, c);
                b = ans_region_meet(&r, &a);
                r = c == n->first || n->op == N_SET || b.n == 0 ? ans_region_join(r, &a) : b;
            } else if (ans_real(w, c, &x)) {
                ans_region_add(&r, x, x, 0, 0);
                ans_region_tidy(&r);
            } else r.n = -1;
        break;
    default: /* one number, or two for \pm */
        for (int sign = -1; sign < 2 && n->op < N_LIST && !(n->flags & FREE); sign += 2) {
            const ans_part p = {node, sign};
            const cx z = ans_part_value(w, p);
            if (!cx_finite(z) || z.im != 0) return r;
            r.n = MAX(r.n, 0);
            ans_region_add(&r, z.re, z.re, 0, 0);
        }
        ans_region_tidy(&r);
    }
    return r;
}

/* 1 for nodes that only make sense as sets of numbers: 2-tuples of mixed brackets or with infinity, inequalities. */
static int ans_is_region(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    if (n->op == N_UNION || n->op == N_INTERSECTION || n->op == N_WITHOUT) return 1;
    if (n->op == N_CONSTANT) return n->id == CONST_EMPTY || n->id == CONST_REALS;
    if (n->op == N_RELATION) return w->nodes[n->last].relation >= REL_NE && w->nodes[n->last].relation <= REL_GE;
    if (n->op == N_LIST || n->op == N_SET) return n->n > 0 && ans_is_region(w, n->first);
    if (n->op != N_TUPLE || n->n != 2) return 0;
    return n->id == 1 || n->id == 2 || ans_infinity_sign(w, n->first) || ans_infinity_sign(w, n->last);
}

/* 1, 0, or -1 if one of them is no region that can be calculated. */
static int ans_same_region(ans_work *w, int a, int b) {
    ans_region r = ans_region_of(w, a), s = ans_region_of(w, b);
    if (r.n < 0 || s.n < 0 || w->budget <= 0) return -1;
    if (r.n != s.n) return 0;
    for (int i = 0; i < r.n; i++) {
        const ans_interval *p = &r.part[i], *q = &s.part[i];
        if (!ans_near(p->low, q->low) || !ans_near(p->high, q->high) || p->low_open != q->low_open ||
            p->high_open != q->high_open)
            return 0;
    }
    return 1;
}

/* --- collections */

/* 1 for what has elements, which a \pm makes of a number too. */
static int ans_is_collection(const ans_work *w, ans_part p) {
    const ans_node *n = &w->nodes[p.node];
    return (n->op >= N_LIST && n->op <= N_MATRIX) || ((n->flags & BOTH_SIGNS) && !p.sign);
}

/* A part with \pm is two: first minus, then plus. */
static int ans_add_part(const ans_work *w, int node, ans_part *parts, int n) {
    int twice = (w->nodes[node].flags & BOTH_SIGNS) && w->nodes[node].op < N_LIST;
    for (int sign = twice ? -1 : 0; sign <= twice; sign += 2)
        if (n < ANS_ELEMENTS) {
            parts[n].node = node;
            parts[n++].sign = sign;
        }
    return n;
}

/* The elements of a collection; of anything else, itself. Returns their number, ANS_ELEMENTS if there are more. */
static int ans_parts(const ans_work *w, int node, ans_part *parts) {
    const ans_node *n = &w->nodes[node];
    int count = 0;
    if (n->op < N_LIST || n->op > N_MATRIX) return ans_add_part(w, ans_result(w, node), parts, 0);
    for (int c = n->first; c && count < ANS_ELEMENTS; c = w->nodes[c].next) {
        int named = n->op != N_SET && !(w->nodes[c].flags & BOTH_SIGNS); /* "x = 1" in a list keeps its name */
        count = ans_add_part(w, named ? c : ans_result(w, c), parts, count);
    }
    return count;
}

/* Drops elements equal to earlier ones. */
static int ans_distinct(ans_work *w, ans_part *parts, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < kept && !ans_same(w, parts[k], parts[i])) k++;
        if (k == kept) parts[kept++] = parts[i];
    }
    return kept;
}

/* Each of a equals a different one of b. */
static int ans_match(ans_work *w, const ans_part *a, ans_part *b, int n) {
    for (int i = 0; i < n; i++) {
        int k = i;
        while (k < n && !ans_same(w, a[i], b[k])) k++;
        if (k == n) return 0;
        if (k > i) {
            ans_part t = b[k];
            b[k] = b[i];
            b[i] = t;
        }
    }
    return 1;
}

/* 1 if a matrix has one row or column, as everything else has. */
static int ans_is_vector(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    return n->op != N_MATRIX || n->id == 1 || n->id == n->n;
}

/* Two parts in round brackets and two in square ones are intervals of different kind; a set is no tuple. */
static int ans_same_kind(const ans_work *w, int a, int b) {
    const ans_node *x = &w->nodes[a], *y = &w->nodes[b];
    if (x->op == N_TUPLE && y->op == N_TUPLE && x->n == 2 && x->id != y->id) return 0;
    if ((x->op == N_TUPLE && y->op == N_SET && y->n > 1) || (x->op == N_SET && y->op == N_TUPLE && x->n > 1)) return 0;
    if (x->op == N_MATRIX && y->op == N_MATRIX && x->id == y->id) return 1;
    return ans_is_vector(w, a) && ans_is_vector(w, b);
}

/* 1 if every part is a relation. */
static int ans_all_relations(const ans_work *w, const ans_part *parts, int n) {
    for (int i = 0; i < n; i++)
        if (w->nodes[parts[i].node].op != N_RELATION) return 0;
    return n > 0;
}

/* Element by element. Sets, and lists where the question asks for all solutions, are matched in any order. */
static int ans_same_collection(ans_work *w, int a, int b, int sets) {
    ans_part p[ANS_ELEMENTS], q[ANS_ELEMENTS];
    int n = ans_parts(w, a, p), m = ans_parts(w, b, q), i = 0;
    int unordered = sets || w->nodes[a].op == N_SET || w->nodes[b].op == N_SET ||
                    ((w->nodes[a].flags | w->nodes[b].flags) & BOTH_SIGNS);
    if (n >= ANS_ELEMENTS || m >= ANS_ELEMENTS || (!sets && !ans_same_kind(w, a, b))) return 0;
    if (!unordered && n == m) {
        while (i < n && ans_same(w, p[i], q[i])) i++;
        if (i == n) return 1;
        /* "x = 1, y = 2" may come in any order: the names are compared then */
        if (!ans_all_relations(w, p, n) || !ans_all_relations(w, q, n)) return 0;
        for (i = 0; i < n; i++) {
            int k = 0;
            while (k < n && !(q[k].node && ans_same_relation(w, p[i].node, q[k].node))) k++;
            if (k == n) return 0;
            q[k].node = 0;
        }
        return 1;
    }
    if (!unordered) return 0;
    n = ans_distinct(w, p, n);
    m = ans_distinct(w, q, m);
    return n == m && ans_match(w, p, q, n);
}

/* Unions of things that are no intervals of numbers: the same parts in any order. */
static int ans_same_union(ans_work *w, int a, int b) {
    ans_part p[2], q[2];
    if (w->nodes[a].op != w->nodes[b].op || w->nodes[a].n != 2 || w->nodes[b].n != 2) return 0;
    for (int i = 0; i < 2; i++) {
        p[i] = ans_whole(ans_child(w, a, i));
        q[i] = ans_whole(ans_child(w, b, i));
    }
    if (w->nodes[a].op == N_WITHOUT) return ans_same(w, p[0], q[0]) && ans_same(w, p[1], q[1]);
    return ans_match(w, p, q, 2);
}

/* The only element of a collection of one. */
static ans_part ans_only(const ans_work *w, ans_part p) {
    while (w->nodes[p.node].op >= N_LIST && w->nodes[p.node].op <= N_MATRIX && w->nodes[p.node].n == 1)
        p.node = w->nodes[p.node].first;
    return p;
}

/* 1 for |ax + b| = c, which has two solutions. */
static int ans_is_bars_equation(const ans_work *w, int node) {
    const ans_node *n = &w->nodes[node];
    return n->op == N_RELATION && n->n == 2 && w->nodes[n->last].relation == REL_EQ && ans_is_bars(w, n->first) &&
           ans_only_symbol(w, n->first);
}

/* 1 for two equations "x =", "y =", "z =" of different letters: lines. */
static int ans_are_lines(const ans_work *w, int a, int b) {
    uint64_t names[2] = {0, 0};
    for (int side = 0; side < 2; side++) {
        const ans_node *n = &w->nodes[side ? b : a];
        if (n->op != N_RELATION || n->n != 2 || w->nodes[n->last].relation != REL_EQ) return 0;
        for (const char *c = "xyz"; *c; c++)
            if (w->nodes[n->first].op == N_SYMBOL && w->nodes[n->first].name == ans_hash(c, 1))
                names[side] = (uint64_t)*c;
    }
    return names[0] && names[1] && names[0] != names[1];
}

/* The kinds of answers in turn, the more special first; what an equation says about a name is compared as a
 * value last. */
static int ans_compare(ans_work *w, ans_part a, ans_part b) {
    int r = w->nodes[a.node].op == N_RELATION, s = w->nodes[b.node].op == N_RELATION, same;
    ans_part x = a, y = b;
    if (r && s && ans_same_relation(w, a.node, b.node)) return 1;
    if (r && w->nodes[a.node].id && ans_same(w, ans_whole(w->nodes[a.node].first), b)) return 1; /* 40/3 \approx 13.3 */
    if (s && w->nodes[b.node].id && ans_same(w, a, ans_whole(w->nodes[b.node].first))) return 1;
    if (ans_are_lines(w, a.node, b.node)) return 0;
    x.node = ans_result(w, a.node);
    y.node = ans_result(w, b.node);
    if ((ans_is_bars_equation(w, a.node) &&
         (s || w->nodes[b.node].op >= N_LIST || (w->nodes[b.node].flags & BOTH_SIGNS))) ||
        (ans_is_bars_equation(w, b.node) &&
         (r || w->nodes[a.node].op >= N_LIST || (w->nodes[a.node].flags & BOTH_SIGNS)))) {
        same = ans_same_region(w, ans_is_bars_equation(w, a.node) ? a.node : x.node,
                               ans_is_bars_equation(w, b.node) ? b.node : y.node);
        if (same >= 0) return same;
    }
    if (x.node != a.node || y.node != b.node) return ans_same(w, x, y);
    if (ans_is_region(w, a.node) || ans_is_region(w, b.node)) {
        if ((same = ans_same_region(w, a.node, b.node)) >= 0) return same;
        if (w->nodes[a.node].op >= N_UNION) return ans_same_union(w, a.node, b.node);
    }
    if (r || s) return 0;
    if (ans_is_collection(w, a) || ans_is_collection(w, b)) return ans_same_collection(w, a.node, b.node, 0);
    return ans_same_value(w, a, b);
}

/* The same modulus, and residues that differ by a multiple of it. */
static int ans_same_congruence(ans_work *w, int a, int b) {
    const int x = w->nodes[a].first, y = w->nodes[b].first, m = w->nodes[a].last;
    int quotient, k, minus;
    if (!ans_same(w, ans_whole(m), ans_whole(w->nodes[b].last))) return 0;
    if (ans_is_exact(w, x) && ans_is_exact(w, y) && ans_is_exact(w, m) && (minus = ans_unary(w, N_NEGATE, y)) != 0 &&
        (k = ans_fold(w, N_ADD, x, minus)) != 0 && (quotient = ans_fold(w, N_DIVIDE, k, m)) != 0)
        return ans_small_integer(w, quotient, &k);
    return ans_same(w, ans_whole(x), ans_whole(y));
}

/* 1 if each word of quantity a is one of b. */
static int ans_has_words(const ans_work *w, int a, int b) {
    for (int i = w->nodes[w->nodes[a].first].next, k; i; i = w->nodes[i].next) {
        for (k = w->nodes[w->nodes[b].first].next; k && w->nodes[k].name != w->nodes[i].name;) k = w->nodes[k].next;
        if (!k) return 0;
    }
    return 1;
}

/* Two values with units: of one kind, and equal in base units. */
static int ans_same_quantity(ans_work *w, ans_part a, ans_part b) {
    const ans_node *x = &w->nodes[a.node], *y = &w->nodes[b.node];
    const natural p = nat_multiply(w, x->num, y->den), q = nat_multiply(w, y->num, x->den); /* a p = b q */
    int left, right;
    if (x->name != y->name || p.n <= 0 || q.n <= 0) return 0;
    if (!ans_has_words(w, a.node, b.node) && !ans_has_words(w, b.node, a.node)) return 0;
    a.node = x->first;
    b.node = y->first;
    if (x->id || y->id || !nat_compare(w, p, q)) return ans_same(w, a, b);
    left = ans_rational(w, 0, p, nat_from(w, 1));
    right = ans_rational(w, 0, q, nat_from(w, 1));
    if (ans_is_exact(w, a.node) && ans_is_exact(w, b.node)) {
        a.node = ans_fold(w, N_MULTIPLY, a.node, left);
        b.node = ans_fold(w, N_MULTIPLY, b.node, right);
        return a.node && b.node && ans_same(w, a, b);
    }
    for (w->probe = 0; w->probe < ANS_PROBES; w->probe++)
        if (cx_equal(cx_scale(ans_part_value(w, a), w->nodes[left].value),
                     cx_scale(ans_part_value(w, b), w->nodes[right].value)) != 1)
            return 0;
    return 1;
}

/* A value without its unit or modulus, which count only against another one. */
static ans_part ans_bare(const ans_work *w, ans_part p) {
    if (w->nodes[p.node].op == N_CONGRUENCE || w->nodes[p.node].op == N_QUANTITY) p.node = w->nodes[p.node].first;
    return p;
}

/* Equality of two parts. The level bounds the recursion through nested collections. */
static int ans_same(ans_work *w, ans_part a, ans_part b) {
    int same = 0;
    if (!a.node || !b.node || w->level >= 12 || !ans_pay(w, 10)) return 0;
    w->level++;
    a = ans_only(w, a);
    b = ans_only(w, b);
    if (w->nodes[a.node].op == N_QUANTITY && w->nodes[b.node].op == N_QUANTITY) {
        const int outer = w->in_units;
        w->in_units = 1;
        same = ans_same_quantity(w, a, b);
        w->in_units = outer;
    } else if (w->nodes[a.node].op == N_CONGRUENCE && w->nodes[b.node].op == N_CONGRUENCE)
        same = ans_same_congruence(w, a.node, b.node);
    else if (w->nodes[a.node].op == N_RELATION || w->nodes[b.node].op == N_RELATION) same = ans_compare(w, a, b);
    else same = ans_compare(w, ans_bare(w, a), ans_bare(w, b));
    w->level--;
    return same && w->budget > 0;
}

/* The flag ANSWER_SETS: the elements in any order. Tuples, intervals and matrices keep theirs. */
static int ans_same_set(ans_work *w, int a, int b) {
    int x = ans_result(w, a), y = ans_result(w, b);
    const ans_node *p = &w->nodes[x], *q = &w->nodes[y];
    if (ans_is_region(w, x) || ans_is_region(w, y) || p->op == N_MATRIX || q->op == N_MATRIX ||
        (p->op == N_TUPLE && q->op == N_TUPLE) || w->nodes[a].op == N_RELATION || w->nodes[b].op == N_RELATION)
        return ans_same(w, ans_whole(a), ans_whole(b));
    w->level = 1;
    return ans_same_collection(w, x, y, 1);
}

/* --- dates and times */

static const char *const ans_months[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                         "jul", "aug", "sep", "oct", "nov", "dec"};

/* Words and numbers of a text that could be a date or time, e.g. "1:03 PM" -> 1 3 with pm set. */
typedef struct ans_moment {
    int n, number[4], month, pm, colon; /* month 1..12; pm: 1 a.m., 2 p.m.; colon: one occurred */
} ans_moment;

/* 1..12 by the first three letters, or 0. */
static int ans_month(const ans_token *t) {
    for (int i = 0; i < 12; i++)
        if (t->length >= 3 && ans_at(ans_span(t->at, t->length), 0, ans_months[i], 1)) return i + 1;
    return 0;
}

/* a.m., am, p.m., pm, as one word or two letters. Returns 1 or 2, and the tokens taken in *used. */
static int ans_half_day(const ans_token *t, int *used) {
    polar_span s = ans_span(t->at, t->length);
    *used = 1;
    if (t->kind == T_LETTER && t[1].kind == T_LETTER && (t[1].id == 'm' || t[1].id == 'M')) {
        *used = 2;
        return t->id == 'a' || t->id == 'A' ? 1 : t->id == 'p' || t->id == 'P' ? 2 : 0;
    }
    if (t->kind != T_WORD || t->length > 3) return 0;
    if (ans_at(s, 0, "am", 1) || ans_at(s, 0, "a.m", 1)) return 1;
    return ans_at(s, 0, "pm", 1) || ans_at(s, 0, "p.m", 1) ? 2 : 0;
}

/* noon, midnight, o'clock, as the word that ends at a token. Returns the tokens taken, 0 for others. */
static int ans_clock_word(const ans_side *side, int i, ans_moment *m) {
    const ans_token *t = &side->tokens[i];
    const polar_span s = ans_span(t->at, t->length);
    const int noon = t->length == 4 && ans_at(s, 0, "noon", 1);
    if (t->kind == T_LETTER && i + 2 < side->n_tokens && t->id == 'o' && ans_is_char(t + 1, '\'') &&
        t[2].kind == T_WORD && ans_at(ans_span(t[2].at, t[2].length), 0, "clock", 1))
        return m->colon = 1, 3;
    if (t->kind != T_WORD || !(noon || (t->length == 8 && ans_at(s, 0, "midnight", 1)))) return 0;
    if (!m->n) m->number[m->n++] = 12;
    m->pm = noon ? 2 : 1;
    return 1;
}

/* Reads a time of day or a date with a month name; 0 if it is neither. */
static int ans_read_moment(const ans_side *side, ans_moment *m) {
    memset(m, 0, sizeof *m);
    for (int i = 0; i < side->n_tokens; i++) {
        const ans_token *t = &side->tokens[i];
        int used = 1, word;
        if (t->kind == T_NUMBER && m->n < 4 && t->length <= 4) {
            for (int k = 0; k < t->length; k++) {
                if (!ans_is_digit(t->at[k])) return 0;
                m->number[m->n] = m->number[m->n] * 10 + (t->at[k] - '0');
            }
            m->n++;
        } else if (ans_is_char(t, ':')) m->colon = 1;
        else if ((word = ans_clock_word(side, i, m)) != 0) used = word;
        else if (t->kind == T_WORD && ans_month(t)) m->month = ans_month(t);
        else if (ans_half_day(t, &used)) m->pm = ans_half_day(t, &used);
        else if (t->kind == T_LETTER && t[1].kind == T_LETTER && t[2].kind == T_LETTER && !m->month) {
            ans_token name = *t; /* "May", "Jan" are short enough to be letters */
            name.length = 3;
            if ((m->month = ans_month(&name)) == 0) return 0;
            used = 3;
        } else if (!ans_is_char(t, '/') && !ans_is_char(t, '-') && t->kind != T_SEPARATOR) return 0;
        i += used - 1;
    }
    if (m->month) return m->n >= 1 && m->n <= 2 && !m->colon && !m->pm;
    if (m->n == 1 || (m->n == 2 && m->colon)) return m->number[0] <= 24 && m->number[1] < 60;
    return m->n == 3 && m->colon && m->number[0] <= 24;
}

/* The hours 13 to 23 are p.m., the hour 0 is 12 a.m. */
static void ans_half_hours(ans_moment *m) {
    if (m->number[0] > 12) {
        m->number[0] -= 12;
        if (!m->pm) m->pm = 2;
    } else if (!m->number[0]) {
        m->number[0] = 12;
        if (!m->pm) m->pm = 1;
    }
}

/* Two dates with a month's name, or two times of day: 1 if they are the same, 0 if not; -1 if they are neither, or
 * could be proportions too. A mark (a.m., p.m.) on one side decides that both are times; on both sides it counts. */
static int ans_same_moment(const ans_side *a, const ans_side *b) {
    ans_moment x, y;
    if (a->n_tokens > 12 || b->n_tokens > 12 || !ans_read_moment(a, &x) || !ans_read_moment(b, &y)) return -1;
    if (x.month || y.month) {
        if (x.n == 2 && x.number[0] > 31) { /* year first */
            const int year = x.number[0];
            x.number[0] = x.number[1];
            x.number[1] = year;
        }
        return x.month == y.month && x.n == y.n && !memcmp(x.number, y.number, sizeof x.number) ? 1 : -1;
    }
    if (!x.pm && !y.pm) return x.colon && y.colon && !memcmp(x.number, y.number, sizeof x.number) ? 1 : -1;
    ans_half_hours(&x);
    ans_half_hours(&y);
    return !memcmp(x.number, y.number, sizeof x.number) && (!x.pm || !y.pm || x.pm == y.pm);
}

/* --- whole answers */

/* The same tokens; case counts but in words. */
static int ans_same_tokens(const ans_side *a, const ans_side *b) {
    int n = a->n_tokens;
    if (n != b->n_tokens) return 0;
    for (int i = 0; i < n; i++) {
        const ans_token *s = &a->tokens[i], *t = &b->tokens[i];
        int text = s->kind == T_NUMBER || s->kind == T_LETTER || s->kind == T_SYMBOL || s->kind == T_WORD;
        if (s->kind != t->kind || (!text && s->id != t->id) || (text && s->length != t->length) ||
            s->repeat != t->repeat)
            return 0;
        for (int k = 0; text && k < s->length; k++)
            if (s->kind == T_WORD ? ans_lower(s->at[k]) != ans_lower(t->at[k]) : s->at[k] != t->at[k]) return 0;
    }
    return 1;
}

/* The letter of a choice, A to E, in lower case, and how many tokens it takes; 0 for other answers. It stands in
 * brackets or before a mark, perhaps after "option", or alone: B, (B), \text{(B)}, B), B. 12, Option (B): twelve. If
 * `lone`, the other side is a capital and nothing else, so that "(b) x" is no product, and F to J are choices too. */
static char ans_choice(const ans_side *s, int lone, int *used) {
    const ans_token *t = s->tokens;
    int i = 0, bracket, n = s->n_tokens, named = 0;
    char letter;
    for (; i < n && t[i].kind == T_WORD && ans_is_any(ans_span(t[i].at, t[i].length), "option choice"); i++) named = 1;
    bracket = i < n && (ans_is_char(&t[i], '(') || ans_is_char(&t[i], '['));
    i += bracket;
    if (i >= n || t[i].kind != T_LETTER) return 0;
    letter = ans_lower((char)t[i].id);
    if (!(letter >= 'a' && letter <= 'e') && !(lone && t[i].id >= 'F' && t[i].id <= 'J')) return 0;
    i++;
    if (bracket) {
        if (i >= n || !(ans_is_char(&t[i], ')') || ans_is_char(&t[i], ']'))) return 0;
        i++;
    } else if (i < n && (ans_is_char(&t[i], ')') || ans_is_char(&t[i], ':'))) i++;
    else if (i < n && !(t[i - 1].at[1] == '.' && t[i].spaced)) return 0;
    *used = i;
    if (i == n || named) return letter;
    if (t[i - 1].kind != T_LETTER && !t[i].spaced && t[i].kind != T_WORD && t[i].kind != T_NUMBER &&
        !(lone && t[i].kind == T_LETTER && t[i + 1].kind == T_LETTER))
        return 0;
    if (letter == t[bracket].id && !t[bracket].upright && bracket && !lone) return 0; /* (a) x is a product */
    if (ans_is_char(&t[i], '-') && !(i + 1 < n && !t[i + 1].spaced)) return 0;
    return ans_is_char(&t[i], '^') || ans_is_char(&t[i], '_') || ans_is_char(&t[i], '+') || ans_is_char(&t[i], '*') ||
                   ans_is_char(&t[i], '/') || ans_is_char(&t[i], '!') || t[i].kind == T_RELATION ||
                   t[i].kind == T_SEPARATOR
               ? 0
               : letter;
}

/* The capital that a side is, in lower case and with or without brackets; else 0. */
static char ans_capital(const ans_side *s) {
    const ans_token *t = &s->tokens[s->n_tokens == 3];
    if (s->n_tokens != 1 && !(s->n_tokens == 3 && ans_is_char(t - 1, '(') && ans_is_char(t + 1, ')'))) return 0;
    return t->kind == T_LETTER && t->id >= 'A' && t->id <= 'J' ? ans_lower((char)t->id) : 0;
}

/* Takes the letter of a choice off its text. */
static void ans_drop_choice(ans_side *s, int used) {
    s->n_tokens -= used;
    memmove(s->tokens, s->tokens + used, (size_t)(s->n_tokens + 1) * sizeof *s->tokens);
    s->balanced = ans_is_balanced(s);
}

/* Letters decide if both have one; else the text behind the letter is compared. */
static int ans_same_choice(ans_side *a, ans_side *b) {
    int m = 0, n = 0;
    const char p = ans_capital(a), q = ans_capital(b), x = ans_choice(a, q, &m), y = ans_choice(b, p, &n);
    if ((x && q) || (y && p)) return (x && q ? x : p) == (y && p ? y : q);
    if (x && y) return x == y;
    if (x && m < a->n_tokens) ans_drop_choice(a, m);
    if (y && n < b->n_tokens) ans_drop_choice(b, n);
    return -1;
}

/* 1 if words are written with -, ' and spaces, 2 if there are only letters, else 0. */
static int ans_is_text(const ans_side *s) {
    int letters = 2;
    for (int i = 0; i < s->n_tokens; i++) {
        const ans_token *t = &s->tokens[i];
        if (t->kind == T_WORD) letters = 1;
        else if (t->kind != T_LETTER && !ans_is_char(t, '-') && !ans_is_char(t, '\'')) return 0;
    }
    return letters;
}

/* 1 for one word of three letters, such as "red". */
static int ans_is_three_letters(const ans_side *s) {
    return s->n_tokens == 3 &&
           ans_is_three_letter_word(ans_span(s->tokens->at, (size_t)(s->tokens[2].at - s->tokens->at + 1)));
}

/* Equal words, of which one side may be too short to be known for a word: odd and \text{odd}. */
static int ans_same_words(const ans_side *a, const ans_side *b) {
    int x = ans_is_text(a), y = ans_is_text(b);
    if (x + y == 4 && !(ans_is_three_letters(a) && ans_is_three_letters(b))) return 0; /* products of letters */
    return x && y &&
           ans_text_name(a->tokens, a->n_tokens, "-'") == ans_text_name(b->tokens, b->n_tokens, "-'");
}

/* Gives the letter of a side another name. */
static void ans_rename(ans_side *s, char from, const char *to) {
    for (int i = 0; i < s->n_tokens; i++)
        if (s->tokens[i].kind == T_LETTER && s->tokens[i].id == (uint8_t)from) {
            s->tokens[i].at = to;
            s->tokens[i].id = (uint8_t)*to;
        }
}

/* A whole number that a side declares may have another letter on the other side: declared there, or one of those that
 * are usual and which this side does not use. */
static void ans_name_parameters(ans_side *a, ans_side *b) {
    ans_side *other = a->parameter ? b : a;
    const char declared = a->parameter ? a->parameter : b->parameter;
    char letter = other->parameter;
    if (!declared) return;
    for (int i = 0; i < other->n_tokens && !letter; i++)
        if (other->tokens[i].kind == T_LETTER && strchr("kmnlt", other->tokens[i].id))
            letter = (char)other->tokens[i].id;
    if (!letter || letter == declared) return;
    ans_rename(a, a == other ? letter : declared, "k");
    ans_rename(b, b == other ? letter : declared, "k");
}

/* One reading of both sides. */
static int ans_same_sides(ans_work *w, polar_span pred, polar_span gold, int plain, int flags) {
    int same;
    ans_prepare(w, &w->pred, pred, plain);
    ans_prepare(w, &w->gold, gold, plain);
    if ((same = ans_same_choice(&w->pred, &w->gold)) >= 0) return same;
    if (!w->pred.n_tokens || !w->gold.n_tokens || !w->pred.balanced || !w->gold.balanced) return 0;
    ans_name_parameters(&w->pred, &w->gold);
    if (ans_same_tokens(&w->pred, &w->gold) || ans_same_words(&w->pred, &w->gold)) return 1;
    if ((same = ans_same_moment(&w->pred, &w->gold)) >= 0) return same;
    w->n_nodes = 1;
    w->pool_used = 0;
    ans_read(w, &w->pred);
    if (!w->pred.root) return 0;
    ans_read(w, &w->gold);
    if (!w->gold.root || w->budget <= 0) return 0;
    w->level = w->in_units = 0;
    return flags & ANSWER_SETS ? ans_same_set(w, w->pred.root, w->gold.root)
                                     : ans_same(w, ans_whole(w->pred.root), ans_whole(w->gold.root));
}

/* Two readings at most: with "1,000" as a number and "2e-3" as a power of ten, then with the other meaning. */
int answer_equal(const char *pred, size_t n_pred, const char *gold, size_t n_gold, int flags) {
    polar_span p = ans_trim(ans_span(pred, pred ? n_pred : 0)), g = ans_trim(ans_span(gold, gold ? n_gold : 0));
    ans_work *w;
    int equal;
    if (!p.length || !g.length) return 0;
    if (p.length > ANS_TEXT || g.length > ANS_TEXT) return ans_same_bytes(p, g);
    if (!(w = ANSWER_MALLOC(sizeof *w))) return -1;
    w->budget = ANS_BUDGET;
    w->pred.ambiguous = w->gold.ambiguous = 0;
    memset(&w->nodes[0], 0, sizeof w->nodes[0]);
    equal = ans_same_sides(w, p, g, 0, flags);
    if (!equal && (w->pred.ambiguous || w->gold.ambiguous)) equal = ans_same_sides(w, p, g, 1, flags);
    free(w);
    return equal;
}

/* --- the judge --- */

static polar_span judge_extract(void *user, const char *response, size_t length) {
    (void)user;
    return answer_extract(response, length);
}

static int judge_same(void *user, polar_span a, polar_span b) {
    return answer_equal(a.text, a.length, b.text, b.length, user ? ANSWER_SETS : 0);
}

polar_judge answer_judge(const char *question, size_t length) {
    static char sets; /* its address says it */
    polar_judge judge;
    judge.extract = judge_extract;
    judge.same = judge_same;
    judge.user = answer_flags(question, length) & ANSWER_SETS ? &sets : NULL;
    return judge;
}
