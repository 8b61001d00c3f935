/* The demo's vocabulary: byte-level BPE, trained on generated questions.
 *
 *     cc -I. -Iexamples/demo examples/demo/vocabulary.c examples/demo/story.c polar.c -o vocabulary -lpthread -lm
 *     vocabulary OUT.gguf [N_TOKENS]
 *
 * writes a GGUF file without tensors that holds the vocabulary: 256 bytes, merges of the words of 20000 stories until
 * every word that is no rarity is one token, and the tokens that begin, box and end. train_model takes it over. */
#include "examples/cli/gguf_writer.c"
#include "story.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 4096, MAX_LENGTH = 32, MAX_TOKENS = 1024, N_STORIES = 20000, SPECIALS = 3 };

typedef struct word {
    char text[MAX_LENGTH];
    int n, count;
    int token[MAX_LENGTH];
} word;

typedef struct vocabulary {
    int n_words, n_tokens, n_merges;
    word words[MAX_WORDS];
    char token[MAX_TOKENS][MAX_LENGTH]; /* the bytes it stands for; 0..255 are single ones */
    int merge[MAX_TOKENS][2];
} vocabulary;

/* --- words ---------------------------------------------------------------------------------------------- */

static int class_of(int c) {
    return isalpha(c) ? 1 : isdigit(c) ? 2 : isspace(c) ? 3 : 4;
}

/* Length of the first piece that the gpt-2 pre-tokenizer makes of an ASCII text without runs of spaces: an optional
 * space and then letters, digits or signs. */
static size_t piece_length(const char *s) {
    size_t n = s[0] == ' ' && s[1] && s[1] != ' ';
    const int class = class_of((unsigned char)s[n]);
    if (class == 3) return 1;
    while (s[n] && class_of((unsigned char)s[n]) == class) n++;
    return n;
}

static void count_words(vocabulary *v, const char *s) {
    while (*s) {
        const size_t n = piece_length(s);
        int i = 0;
        while (i < v->n_words && (strlen(v->words[i].text) != n || memcmp(v->words[i].text, s, n))) i++;
        if (i == v->n_words && v->n_words < MAX_WORDS && n < MAX_LENGTH) {
            word *w = &v->words[v->n_words++];
            memcpy(w->text, s, n);
            for (w->n = 0; w->n < (int)n; w->n++) w->token[w->n] = (unsigned char)s[w->n];
        }
        if (i < v->n_words) v->words[i].count++;
        s += n;
    }
}

static void read_stories(vocabulary *v) {
    static story s;
    static char text[8192];
    uint64_t state = 20260101;
    for (int i = 0; i < N_STORIES; i++) {
        /* short ones: what the openings say weighs as much as the steps */
        const int steps = 1 + story_below(&state, 4);
        story_make(&s, i % STORY_TASKS, steps, STORY_NORMAL, &state);
        story_text(&s, steps, text, sizeof text);
        count_words(v, text);
        count_words(v, s.answer[steps]);
    }
}

/* --- merges --------------------------------------------------------------------------------------------- */

static void join(word *w, int left, int right, int token) {
    int n = 0;
    for (int i = 0; i < w->n; i++) {
        const int found = i + 1 < w->n && w->token[i] == left && w->token[i + 1] == right;
        w->token[n++] = found ? token : w->token[i];
        i += found;
    }
    w->n = n;
}

/* Joins the most frequent pair of neighbours, of several the one with the lowest ids. 0: nothing is left to join. */
static int merge_once(vocabulary *v) {
    static int counts[MAX_TOKENS][MAX_TOKENS];
    int best = 0, left = 0, right = 0;
    char joined[2 * MAX_LENGTH];
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < v->n_words; i++)
        for (int k = 0; k + 1 < v->words[i].n; k++)
            counts[v->words[i].token[k]][v->words[i].token[k + 1]] += v->words[i].count;
    for (int a = 0; a < v->n_tokens; a++)
        for (int b = 0; b < v->n_tokens; b++)
            if (counts[a][b] > best) best = counts[a][b], left = a, right = b;
    if (!best || strlen(v->token[left]) + strlen(v->token[right]) >= MAX_LENGTH) return 0;
    snprintf(joined, sizeof joined, "%s%s", v->token[left], v->token[right]);
    memcpy(v->token[v->n_tokens], joined, MAX_LENGTH);
    v->merge[v->n_merges][0] = left, v->merge[v->n_merges++][1] = right;
    for (int i = 0; i < v->n_words; i++) join(&v->words[i], left, right, v->n_tokens);
    v->n_tokens++;
    return 1;
}

/* --- file ----------------------------------------------------------------------------------------------- */

/* The bytes of a token in the alphabet of GPT-2, where each byte has a character that prints. */
static size_t put_alphabet(char *out, const unsigned char *bytes, size_t n) {
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned c = bytes[i];
        const int prints = (c >= 33 && c <= 126) || (c >= 161 && c != 173);
        if (!prints) c = c <= 32 ? 256 + c : c <= 160 ? 256 + 33 + (c - 127) : 256 + 67;
        if (c >= 128) out[length++] = (char)(0xC0 | c >> 6);
        out[length++] = (char)(c < 128 ? c : 0x80 | (c & 63));
    }
    out[length] = 0;
    return length;
}

static void name_token(const vocabulary *v, int token, char *out) {
    const unsigned char byte = (unsigned char)token;
    if (token < 256) put_alphabet(out, &byte, 1);
    else put_alphabet(out, (const unsigned char *)v->token[token], strlen(v->token[token]));
}

static void write_metadata(gguf_writer *w, const vocabulary *v) {
    static char names[MAX_TOKENS][4 * MAX_LENGTH], merges[MAX_TOKENS][4 * MAX_LENGTH];
    static const char *list[MAX_TOKENS], *merge_list[MAX_TOKENS];
    static const char *const specials[SPECIALS] = {STORY_BOX, "<|begin|>", "<|end|>"};
    static int32_t kinds[MAX_TOKENS];
    const int n = v->n_tokens;
    for (int i = 0; i < n + SPECIALS; i++) {
        if (i < n) name_token(v, i, names[i]);
        list[i] = i < n ? names[i] : specials[i - n];
        kinds[i] = i < n ? 1 : i == n ? 4 : 3; /* normal, user-defined, control */
    }
    for (int i = 0; i < v->n_merges; i++) {
        name_token(v, v->merge[i][0], merges[i]);
        strcat(merges[i], " ");
        name_token(v, v->merge[i][1], merges[i] + strlen(merges[i]));
        merge_list[i] = merges[i];
    }
    gguf_writer_set_string(w, "tokenizer.ggml.model", "gpt2", 4);
    gguf_writer_set_string(w, "tokenizer.ggml.pre", "gpt-2", 5);
    gguf_writer_set_strings(w, "tokenizer.ggml.tokens", list, NULL, (size_t)n + SPECIALS);
    gguf_writer_set_array(w, "tokenizer.ggml.token_type", POLAR_GGUF_I32, kinds, (size_t)n + SPECIALS);
    gguf_writer_set_strings(w, "tokenizer.ggml.merges", merge_list, NULL, (size_t)v->n_merges);
    gguf_writer_set_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)n + 1);
    gguf_writer_set_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)n + 2);
    gguf_writer_set_bool(w, "tokenizer.ggml.add_bos_token", 1);
    gguf_writer_set_string(w, "polar.prompt_template", STORY_PROMPT, strlen(STORY_PROMPT));
}

int main(int argc, char **argv) {
    static vocabulary v;
    const int wanted = argc > 2 ? atoi(argv[2]) : 640;
    gguf_writer *w = NULL;
    polar_error e;
    if (argc < 2 || wanted < 256 + SPECIALS || wanted > MAX_TOKENS) {
        fprintf(stderr, "usage: vocabulary OUT.gguf [N_TOKENS of %d..%d]\n", 256 + SPECIALS, MAX_TOKENS);
        return 2;
    }
    for (v.n_tokens = 0; v.n_tokens < 256; v.n_tokens++) v.token[v.n_tokens][0] = (char)v.n_tokens;
    read_stories(&v);
    while (v.n_tokens < wanted - SPECIALS && merge_once(&v)) continue;
    int pieces = 0;
    for (int i = 0; i < v.n_words; i++) pieces += v.words[i].n > 1;
    fprintf(stderr, "vocabulary: %d tokens; of %d words %d have more than one\n", v.n_tokens + SPECIALS,
            v.n_words, pieces);
    if (gguf_writer_open(&w, argv[1], NULL, &e) == POLAR_OK) {
        gguf_writer_set_string(w, "general.architecture", "llama", 5);
        write_metadata(w, &v);
        gguf_writer_finish(w, &e);
    }
    gguf_writer_close(w);
    if (e.status != POLAR_OK) fprintf(stderr, "vocabulary: %s\n", e.message);
    return e.status != POLAR_OK;
}
