/* Fuzzer of vocabularies and of texts under them. The input is a GGUF file, its last bytes are the text too:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_tokenizer.c tests/fuzz/mutate_gguf.c polar.c \
 *       -lm -lpthread
 * tests/test_tok.c runs it over damaged vocabularies. */
#include "polar.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEXT 256

static void require_tok(int condition) {
    if (!condition) abort();
}

/* Measuring and writing agree, and every token is one of the vocabulary: it decodes. */
static void check_text(const polar_model *model, const char *text, size_t length, int flags) {
    int32_t tokens[4 * MAX_TEXT + 2]; /* a byte is a token at most; then the space and BOS */
    char back[64];
    size_t bytes = 0;
    int n = 0, written = 0;
    polar_error e;
    if (polar_tokenize(model, text, length, flags, NULL, 0, &n, &e)) {
        require_tok(e.status != POLAR_OK && e.message[0]);
        return;
    }
    require_tok(n >= 0 && (size_t)n <= sizeof tokens / sizeof *tokens);
    require_tok(!polar_tokenize(model, text, length, flags, tokens, n, &written, NULL) && written == n);
    for (int special = 0; special < 2; special++)
        require_tok(!polar_detokenize(model, tokens, n, special, back, sizeof back, &bytes, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    polar_model_options options = {0};
    size_t length = size < MAX_TEXT ? size : MAX_TEXT;
    const char *text = (const char *)data + size - length;
    char content[MAX_TEXT + 1];
    polar_message message = {"user", content};
    polar_model *model;
    int n;
    memcpy(content, text, length);
    content[length] = 0;
    options.vocab_only = 1;
    if (polar_model_open_memory(&model, data, size, &options, NULL)) return 0;
    for (int flags = 0; flags < 4; flags++) check_text(model, text, length, flags);
    for (int chat = 0; chat < POLAR_N_CHAT; chat++)
        polar_chat_tokenize(model, (polar_chat)chat, 0, &message, 1, NULL, 0, &n, NULL);
    polar_model_close(model);
    return 0;
}
