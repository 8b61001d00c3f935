/* Looped models as a user meets them: their own program, all layers num_loops times, is what every command of ./polar
 * runs where none is named, what a search begins with, and what answers are compared and costs measured with. */
#include "inside.h"
#include "../examples/cli/json.c"
#include "test.h"
#include "command.h"
#include "fixture.h"

/* Random weights: four layers, two loops. With "]" as the end one loop says 264 to seven of the questions, and two loops do not. */
#define ASKED "-n 3 --stop ] --prompt {question} --chat raw -t 1 "

static void prepare(void) {
    fixture f = fixture_model("ouro", QUANT_Q8_0, 3);
    static const char *const questions[] = {"a1", "c1", "m1", "mth", "o1", "p1", "q1", "a", "bth", "czz"};
    FILE *file;
    write_file("ouro.gguf", f.data, f.size);
    free(f.data);
    file = open_there("q.jsonl", "wb");
    for (int i = 0; file && i < COUNT(questions); i++)
        fprintf(file, "{\"question\":\"%s\",\"answer\":\"%d\"}\n", questions[i], i < 9 ? 264 : 1);
    if (file) fclose(file);
}

/* What a command prints, in one of two places. */
static const char *printed(const char *command, int place) {
    static char text[2][8192];
    CHECK(!run(command));
    snprintf(text[place], sizeof text[place], "%.8000s", output);
    return text[place];
}

/* The commands that run one program. */
TEST(own_program) {
    static const char *const same[] = {"--program 0-3x2", "--program identity", "--path 0,1,2,3,0,1,2,3", "--batch 2"};
    const char *own = printed("polar logits -m ouro.gguf --tokens 1,2,3 -n 4", 0);
    for (int i = 0; i < COUNT(same); i++) {
        char command[128];
        snprintf(command, sizeof command, "polar logits -m ouro.gguf --tokens 1,2,3 -n 4 %s", same[i]);
        CHECK_STR(printed(command, 1), own);
    }
    CHECK(strcmp(printed("polar logits -m ouro.gguf --tokens 1,2,3 -n 4 --program 0-3", 1), own));
    CHECK(strcmp(printed("polar logits -m ouro.gguf --tokens 1,2,3 -n 4 --program 0-3x3", 1), own));
    RUN("polar info ouro.gguf", 0, "loops         2, its own program is 0-3x2\n");
    CHECK(strstr(output, "96 tokens, 8 layer calls"));
    RUN("polar info --program 0-3 ouro.gguf", 0, "96 tokens, 4 layer calls");
    RUN("polar info --json ouro.gguf", 0, "\"n_loops\":2");
    RUN("polar run -m ouro.gguf -n 3 --stats b1", 0, "8 layer calls each");
    RUN("polar run -m ouro.gguf -n 3 --stats --program 0-3x3 b1", 0, "12 layer calls each");
    RUN("polar run -m ouro.gguf -n 3 --stats --prompt-program 0-3 b1", 0, "8 layer calls each of the answer's");
    RUN("polar bench ouro.gguf -p 4 -n 2 --repeat 1 --json", 0, "\"n_calls\":8");
    RUN("polar bench -m ouro.gguf -p 4 -n 2 --repeat 1 --batch 1 --json", 0, "\"n_calls\":8");
}

/* The number of loops is a key that results depend on: it must not be lost, wrong or out of range. */
TEST(keys) {
    fixture f = fixture_model("nanbeige", QUANT_F32, 3);
    size_t at = 0;
    const char key[] = "nanbeige.num_loops";
    while (at < f.size && memcmp(f.data + at, key, sizeof key - 1)) at++;
    CHECK(at < f.size);
    for (uint32_t n = 0; n < 3 && at < f.size; n++) {
        wr_u32(f.data + at + sizeof key - 1 + 4, n ? POLAR_MAX_CALLS / FX_LAYERS + n - 1 : 0);
        write_file("keys.gguf", f.data, f.size);
        RUN("polar info keys.gguf", 0, n == 1 ? "its own program is 0-3x320" : "nanbeige.num_loops is");
    }
    memcpy(f.data + at, "nanbeige.num_loopz", sizeof key - 1);
    write_file("keys.gguf", f.data, f.size);
    RUN("polar info keys.gguf", 0, "the key nanbeige.num_loopz");
    free(f.data);
    RUN("polar quantize ouro.gguf small.gguf Q4_0", 0, "");
    RUN("polar info small.gguf", 0, "its own program is 0-3x2");
}

/* A search begins with the own program; what one loop answers is found; the menu that is made and trained of it begins
 * with the own program again, and costs are in passes of that. */
TEST(search_to_run) {
    RUN("polar search -m ouro.gguf q.jsonl -o found.json --simulations 12 " ASKED, 0, "identity          0.0 %");
    CHECK(strstr(output, "shortest") && strstr(output, "of 8 layers"));
    CHECK(count_in("found.json", "\"final_valid_transitions\":[[0,1,2,3]") == 7);
    CHECK(count_in("found.json", "{\"path\":[0,1,2,3,0,1,2,3],\"parent_path\":null") == 10);
    CHECK(count_in("found.json", "\"n_loops\":2,") == 1);
    replace_text("q.jsonl", "none.jsonl", "264", "2640");
    RUN("polar search -m ouro.gguf none.jsonl -o none.json --simulations 1 " ASKED, 0, "oracle, both      0.0 %");
    RUN("polar report none.json -o page.html", 0, "");
    CHECK(count_in("page.html", "All 4 layers 2 times answer <b>0.0") == 1);
    RUN("polar search -m ouro.gguf q.jsonl -o no.json --rule released", 2, "this model has 2 loops");
    for (int i = 0; i < 2; i++) {
        char command[256];
        snprintf(command, sizeof command, "polar search -m ouro.gguf q.jsonl -o part%d.json --shard %d/2 "
                 "--simulations 12 " ASKED, i, i + 1);
        RUN(command, 0, "identity          0.0 %");
    }
    RUN("polar merge part0.json part1.json -o all.json", 0, "of 8 layers");
    CHECK(same_files("all.json", "found.json"));
    RUN("polar report found.json -o page.html", 0, "");
    CHECK(count_in("page.html", "All 4 layers 2 times answer <b>0.0") == 1);
    RUN("polar search -m ouro.gguf found.json --menu 3 --also identity --also 0-3x3 -o menu.json -t 1", 0, "");
    CHECK(count_in("menu.json", "\"menu\":[\"0-3x2\",\"0-3\",") == 1);
    RUN("polar train -m ouro.gguf menu.json -o p.gguf --heads menu --menu-size 3 --epochs 2 -t 1", 0,
        "0  cost 1.000  0-3x2\n   1  cost 0.500  0-3\n");
    RUN("polar run -m ouro.gguf -p p.gguf --price 100 -n 3 --stats b1", 0, "layer calls each");
    RUN("polar eval -m ouro.gguf -p p.gguf q.jsonl --allow-overlap --program 0-3 --program identity -o eval.json "
        ASKED, 0, "features included, of 8\n");
    CHECK(strstr(output, "\nidentity ") != NULL);
    RUN("polar report eval.json -o page.html", 0, "");
    CHECK(count_in("page.html", "4 layers. All layers 2 times answer <b>0.0") == 1);
}

/* The identity of a scan is the own program: its scores are those of all layers twice. */
TEST(scan) {
    size_t n;
    char *text, *first, *second;
    write_text("scan.jsonl", "{\"question\":\"a1\",\"answer\":\"0\"}\n{\"question\":\"c1\",\"answer\":\"1\"}\n"
                             "{\"question\":\"m1\",\"answer\":\"2\"}\n{\"question\":\"o1\",\"answer\":\"3\"}\n");
    RUN("polar scan -m ouro.gguf scan.jsonl --grid 4 --max-length 4 --max-times 2 --damped 0 --around 0 "
        "--prompt {question} --chat raw -t 1 -o scan.json", 0, "no program is better than the identity");
    text = read_back("scan.json", &n);
    first = text ? strstr(text, "\"layers\":8,") : NULL;
    second = first ? strstr(first + 1, "\"layers\":8,") : NULL;
    CHECK(first && second && strcspn(first, "\n") == strcspn(second, "\n") + 1); /* a comma */
    CHECK(first && second && !memcmp(first, second, strcspn(second, "\n")));
    free(text);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(own_program), T(keys), T(search_to_run), T(scan),
};

int main(int argc, char **argv) {
    prepare();
    return test_main(tests, COUNT(tests), argc, argv);
}
