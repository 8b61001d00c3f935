/* A conversation with a model, in which each turn evaluates only its own tokens.
 *
 *     cc -O2 -I.. chat.c ../polar.c -o chat -lpthread -lm
 *     ./chat model.gguf ["program"]
 *
 * The whole conversation is written as tokens anew for each turn; polar_session_sync keeps what the session holds already.
 */
#include "polar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TURNS = 200, MAX_TEXT = 8192, MAX_TOKENS = 4096, LOOKUP = 15 };

static int print(void *user, const char *text, size_t length) {
    fwrite(text, 1, length, (FILE *)user);
    return fflush((FILE *)user);
}

static char *copy(const char *text) {
    char *c = malloc(strlen(text) + 1);
    return c ? strcpy(c, text) : NULL;
}

/* One turn: the answer to the messages so far. */
static polar_status turn(polar_session *session, const polar_message *messages, int n, char *answer, polar_error *error) {
    static int32_t tokens[MAX_TOKENS];
    const polar_model *model = polar_session_model(session);
    polar_generate_options options = {0};
    polar_status status;
    int n_tokens, n_new;
    options.on_text = print;
    options.on_text_user = stdout;
    options.lookup = LOOKUP;
    status = polar_chat_tokenize(model, POLAR_CHAT_AUTO, 0, messages, n, tokens, MAX_TOKENS, &n_tokens, error);
    if (!status) status = polar_session_sync(session, tokens, n_tokens, &n_new, error); /* refuses too many */
    if (!status) status = polar_session_generate(session, NULL, 0, &options, answer, MAX_TEXT, NULL, error);
    if (!status) printf("\n[%d of %d tokens were new]\n", n_new, n_tokens);
    return status;
}

int main(int argc, char **argv) {
    static char line[MAX_TEXT], answer[MAX_TEXT + 1];
    char *texts[MAX_TURNS];
    polar_message messages[MAX_TURNS];
    polar_session_options options = {0};
    polar_session *session = NULL;
    polar_model *model = NULL;
    polar_model_info info;
    polar_program program;
    polar_error error = {POLAR_MEMORY, "out of memory"};
    int n = 0, failed = 1;
    if (argc < 2) return 2;
    if (polar_model_open(&model, argv[1], NULL, &error)) goto done;
    polar_model_get_info(model, &info);
    if (polar_model_program(model, argc > 2 ? argv[2] : NULL, &program, &error)) goto done;
    options.n_logits = LOOKUP + 1;
    if (polar_session_create(&session, model, &program, &options, &error)) goto done;
    while (n + 2 <= MAX_TURNS && printf("> ") && !fflush(stdout) && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!(texts[n] = copy(line))) goto done;
        messages[n].role = "user";
        messages[n].content = texts[n];
        n++;
        if (turn(session, messages, n, answer, &error) || !(texts[n] = copy(answer))) goto done;
        messages[n].role = "assistant";
        messages[n].content = texts[n];
        n++;
    }
    failed = 0;
done:
    if (failed && argc > 1) fprintf(stderr, "chat: %s\n", error.message);
    while (n > 0) free(texts[--n]);
    polar_session_free(session);
    polar_model_close(model);
    return failed;
}
