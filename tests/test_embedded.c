/* examples/embedded: inference alone, with all switches off and memory from one block, says what the whole library
 * says. The Makefile builds build/embedded/embedded and its model. */
#include "inside.h"
#include "test.h"
#include "command.h"

/* The line that main.c prints, from the prompt that is there, by the whole library. */
static void expected_line(const polar_model *m, const char *program, char *line, size_t size) {
    const int32_t prompt[] = {39, 68, 75, 75, 78};
    polar_session *s = NULL;
    polar_program p;
    text_buffer t = {line, size, 0};
    CHECK(!polar_program_parse(&p, m->n_layer, program, NULL));
    CHECK(!polar_session_create(&s, m, &p, NULL, NULL));
    CHECK(!polar_session_eval(s, prompt, COUNT(prompt), NULL));
    for (int i = 0; i < 16; i++) {
        const int32_t token = draw_greedy(polar_session_logits(s, 0), m->n_vocab);
        text_format(&t, "%d%s", (int)token, i < 15 ? " " : "\n");
        CHECK(!polar_session_eval(s, &token, 1, NULL));
    }
    polar_session_free(s);
}

TEST(same_tokens) {
    static const char *const programs[] = {"", "0 1x2", "0x0", "0-1x2"};
    polar_model *m = NULL;
    polar_error e;
    CHECK(!polar_model_open(&m, "build/embedded/model.gguf", NULL, &e));
    for (int i = 0; m && i < COUNT(programs); i++) {
        char command[64], line[256], *memory;
        unsigned model = 0, all = 0;
        snprintf(command, sizeof command, "build/embedded/embedded" EXE " '%s'", programs[i]);
        expected_line(m, programs[i], line, sizeof line);
        RUN(command, 0, "memory: ");
        CHECK(!strncmp(output, line, strlen(line)));
        memory = strstr(output, "memory: ");
        CHECK(memory && sscanf(memory, "memory: %u bytes for the model, %u in all", &model, &all) == 2);
        CHECK(model < 10000 && all < 40000);
    }
    polar_model_close(m);
}

static const test_case tests[] = {{"same_tokens", test_same_tokens}};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
