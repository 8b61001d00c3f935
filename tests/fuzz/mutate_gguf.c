/* Changes of GGUF files that a change of bytes hardly finds: counts, shapes and types become numbers at the edges, names
 * change places, and an element of an array, and of all arrays that are as long, is repeated until the file is large.
 * For libFuzzer; linked to the fuzzers of files. The file may have one byte before it, as fuzz_model wants. */
#include <stdint.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

enum { MAX_PLACES = 2000, NUMBER = 0, STRING, ELEMENT, N_KINDS };

/* Texts that mean something in a file. */
static const char *const words[] = {
    "<EOT>", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "</s>", "<unk>", "<0x0A>", "a b", "linear",
    "llama", "qwen2", "qwen3", "qwen2moe", "gpt2", "split.count", "general.alignment", "output.bias", "output.weight",
    "rope_freqs.weight", "blk.0.attn_q.bias", "llama.rope.scale_linear", "tokenizer.ggml.pre",
    "tokenizer.ggml.token_type", "tokenizer.ggml.add_bos_token", "tokenizer.chat_template"};

/* A number of `size` bytes; a string, whose length is at `at`; element `index` of an array, whose count is at `count`:
 * all in the file. */
typedef struct place {
    int kind;
    size_t at, size, count, index;
} place;

typedef struct walk {
    const uint8_t *data;
    size_t size, at;
    place places[MAX_PLACES];
    int n, ok;
} walk;

static uint64_t number(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

static void put_number(uint8_t *p, size_t n, uint64_t v) {
    for (; n--; v >>= 8) *p++ = (uint8_t)v;
}

static void add_place(walk *w, int kind, size_t at, size_t size, size_t count, size_t index) {
    const place p = {kind, at, size, count, index};
    if (w->n < MAX_PLACES) w->places[w->n++] = p;
}

static uint64_t take(walk *w, size_t n) {
    w->ok = w->ok && n <= w->size - w->at;
    if (!w->ok) return 0;
    add_place(w, NUMBER, w->at, n, 0, 0);
    w->at += n;
    return number(w->data + w->at - n, n);
}

static void take_string(walk *w) {
    const size_t at = w->at;
    const uint64_t n = take(w, 8);
    w->ok = w->ok && n <= w->size - w->at;
    if (!w->ok) return;
    w->at += (size_t)n;
    add_place(w, STRING, at, 8 + (size_t)n, 0, 0);
}

static void take_value(walk *w, uint64_t type) {
    static const uint8_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) take_string(w);
    else if (type < sizeof widths && widths[type]) take(w, widths[type]);
    else w->ok = 0;
}

static void take_pair(walk *w) {
    uint64_t type, count;
    size_t at;
    take_string(w);
    type = take(w, 4);
    if (type != 9) {
        take_value(w, type);
        return;
    }
    type = take(w, 4);
    at = w->at;
    count = take(w, 8);
    for (uint64_t i = 0; i < count && w->ok; i++) {
        const size_t element = w->at;
        take_value(w, type);
        if (i < 8 && w->ok) add_place(w, ELEMENT, element, w->at - element, at, (size_t)i);
    }
}

static void take_tensor(walk *w) {
    uint64_t n_dims;
    take_string(w);
    n_dims = take(w, 4);
    for (uint64_t i = 0; i < n_dims && w->ok; i++) take(w, 8);
    take(w, 4);
    take(w, 8);
}

static void walk_file(walk *w, size_t at) {
    uint64_t n_tensors, n_pairs;
    w->ok = 1;
    w->at = at + 4;
    take(w, 4);
    n_tensors = take(w, 8);
    n_pairs = take(w, 8);
    for (uint64_t i = 0; i < n_pairs && w->ok; i++) take_pair(w);
    for (uint64_t i = 0; i < n_tensors && w->ok; i++) take_tensor(w);
}

static uint64_t random_state;

static uint64_t random_below(uint64_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static uint64_t edge(void) {
    static const uint64_t edges[] = {0, 1, 2, 3, 8, 31, 32, 255, 256, 1024, 4096, 65535, 65536, 1 << 20, 1 << 24};
    const uint64_t more = random_below(4);
    if (more == 0) return ((uint64_t)1 << random_below(64)) - random_below(2);
    if (more == 1) return 0 - (uint64_t)random_below(3);
    return edges[random_below(sizeof edges / sizeof *edges)];
}

/* Puts `n` bytes in place of `old` bytes at `at`; the new size, or the old one where that is too large. */
static size_t splice(uint8_t *data, size_t size, size_t max_size, size_t at, size_t old, const uint8_t *bytes,
                     size_t n) {
    if (size - old > max_size || n > max_size - (size - old)) return size;
    memmove(data + at + n, data + at + old, size - at - old);
    memcpy(data + at, bytes, n);
    return size - old + n;
}

/* Repeats an element of an array, and the same of all others that are as long: from the last to the first, so that
 * places stay right. */
static size_t repeat(const walk *w, uint8_t *data, size_t size, size_t max_size, const place *chosen) {
    const uint64_t count = number(data + chosen->count, 8);
    size_t n = (size_t)1 << random_below(18), bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass && size >= max_size) return size;
        if (pass && n > (max_size - size) / bytes) n = (max_size - size) / bytes;
        for (int i = w->n; i-- > 0;) {
            const place *p = &w->places[i];
            if (p->kind != ELEMENT || p->index != chosen->index || number(data + p->count, 8) != count) continue;
            bytes += p->size;
            if (!pass) continue;
            memmove(data + p->at + n * p->size, data + p->at, size - p->at);
            for (size_t k = 0; k < n; k++) memmove(data + p->at + k * p->size, data + p->at + n * p->size, p->size);
            size += n * p->size;
            put_number(data + p->count, 8, count + n);
        }
    }
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    static walk w;
    static uint8_t copy[1 << 16];
    const size_t at = size > 4 && !memcmp(data + 1, "GGUF", 4);
    const place *p, *other;
    random_state = seed + 0x9E3779B97F4A7C15u;
    if (size < at + 24 || memcmp(data + at, "GGUF", 4) || !random_below(3))
        return LLVMFuzzerMutate(data, size, max_size);
    w.data = data;
    w.size = size;
    w.n = 0;
    walk_file(&w, at);
    for (uint64_t i = 0; i <= random_below(3); i++) {
        const int kind = (int)random_below(N_KINDS);
        for (int k = 0; (p = &w.places[random_below((uint64_t)w.n)])->kind != kind && k < 1000; k++) {}
        other = &w.places[random_below((uint64_t)w.n)];
        if (p->kind == NUMBER)
            put_number(data + p->at, p->size, other->kind == NUMBER && random_below(2)
                                                  ? number(data + other->at, other->size)
                                                  : edge());
        else if (p->kind == ELEMENT) return repeat(&w, data, size, max_size, p);
        else if (other->kind == STRING && other->size <= sizeof copy && random_below(2)) {
            memcpy(copy, data + other->at, other->size);
            return splice(data, size, max_size, p->at, p->size, copy, other->size);
        } else {
            const char *word = words[random_below(sizeof words / sizeof *words)];
            put_number(copy, 8, strlen(word));
            memcpy(copy + 8, word, strlen(word));
            return splice(data, size, max_size, p->at, p->size, copy, 8 + strlen(word));
        }
    }
    return size;
}
