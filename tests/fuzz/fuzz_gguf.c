/* Fuzzer of the GGUF reader: what opens is walked whole, copied by the writer, and must read back the same.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_gguf.c tests/fuzz/mutate_gguf.c polar.c \
 *       -lm -lpthread
 * Start it with small files, as tests/test_gguf.c makes them, and -max_len=2000000. */
#include "examples/cli/gguf_writer.c"

#include <stdlib.h>
#include <string.h>

static void require(int condition) {
    if (!condition) abort();
}

static void check_same(const polar_gguf *a, const polar_gguf *b) {
    polar_gguf_pair pa, pb;
    polar_gguf_tensor ta, tb;
    char text_a[64], text_b[64], key[65536];
    for (int i = 0; polar_gguf_get_pair(b, i, &pb); i++) {
        memcpy(key, pb.key, pb.key_length);
        key[pb.key_length] = 0;
        require(polar_gguf_find(b, key) == i && polar_gguf_get_pair(a, polar_gguf_find(a, key), &pa));
        require(pa.type == pb.type && pa.is_array == pb.is_array && pa.count == pb.count);
        for (size_t k = 0; k < pa.count && k < 20; k++) {
            size_t n = polar_gguf_text(a, polar_gguf_find(a, key), k, text_a, sizeof text_a);
            require(n == polar_gguf_text(b, i, k, text_b, sizeof text_b) && !strcmp(text_a, text_b));
        }
    }
    for (int i = 0; polar_gguf_get_tensor(a, i, &ta); i++)
        require(polar_gguf_get_tensor(b, i, &tb) && ta.type == tb.type && ta.bytes == tb.bytes &&
                !memcmp(ta.data, tb.data, ta.bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    polar_gguf *g, *copy;
    gguf_writer *w;
    polar_gguf_tensor t;
    char name[65536];
    const void *bytes;
    size_t n = 0;
    if (polar_gguf_open_memory(&g, data, size, NULL, NULL)) return 0;
    require(!gguf_writer_open(&w, NULL, NULL, NULL));
    gguf_writer_copy(w, g);
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) {
        memcpy(name, t.name, t.name_length);
        name[t.name_length] = 0;
        gguf_writer_add_tensor(w, name, t.type, t.n_dims, t.dims);
        n += t.bytes;
    }
    if (n < 1000000) { /* tensors may share their bytes, so that a copy is larger */
        for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) gguf_writer_write(w, t.data, t.bytes);
        require(!gguf_writer_finish(w, NULL));
        bytes = gguf_writer_data(w, &n);
        require(!polar_gguf_open_memory(&copy, bytes, n, NULL, NULL));
        check_same(g, copy);
        polar_gguf_close(copy);
    }
    gguf_writer_close(w);
    polar_gguf_close(g);
    return 0;
}
