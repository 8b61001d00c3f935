/* A question to a model, under a program of layers if a third word gives one.
 *
 *     cc -O2 -I.. minimal.c ../polar.c -o minimal -lpthread -lm
 *     ./minimal model.gguf "Once upon a time" "2x2"
 */
#include "polar.h"
#include <stdio.h>

static int print(void *user, const char *text, size_t length) {
    fwrite(text, 1, length, (FILE *)user);
    return fflush((FILE *)user);
}

int main(int argc, char **argv) {
    polar_error error;
    polar_model *model = NULL;
    polar_ask_options options = {0};
    polar_result result;
    if (argc < 3) return 2;
    options.generate.on_text = print;
    options.generate.on_text_user = stdout;
    options.program = argc > 3 ? argv[3] : NULL;
    if (polar_model_open(&model, argv[1], NULL, &error) ||
        polar_ask(model, argv[2], &options, NULL, 0, &result, &error)) {
        fprintf(stderr, "minimal: %s\n", error.message);
        polar_model_close(model);
        return 1;
    }
    printf("\n[%d tokens, %d layer calls each]\n", result.n_generated, result.n_calls);
    polar_model_close(model);
    return 0;
}
