/* A question to a model, under the program that a predictor picks if a third word names one.
 *
 *     cc -O2 -I.. minimal.c ../polar.c -o minimal -lpthread -lm
 *     ./minimal model.gguf "Once upon a time"
 *     ./minimal demo/demo-model.gguf "Max gives a coin to Ben. Max sees Ann swap with Eve. Who has it now?" \
 *         demo/demo-predictor.gguf
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
    polar_predictor *predictor = NULL;
    polar_ask_options options = {0};
    polar_result result;
    int failed;
    if (argc < 3) return 2;
    failed = polar_model_open(&model, argv[1], NULL, &error) ||
             (argc > 3 && polar_predictor_open(&predictor, argv[3], NULL, &error));
    options.predictor = predictor;
    options.generate.on_text = print;
    options.generate.on_text_user = stdout;
    failed = failed || polar_ask(model, argv[2], &options, NULL, 0, &result, &error);
    if (failed) fprintf(stderr, "minimal: %s\n", error.message);
    else printf("\n[%d tokens, %d layer calls each]\n", result.n_generated, result.n_calls);
    polar_predictor_close(predictor);
    polar_model_close(model);
    return failed;
}
