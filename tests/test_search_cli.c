/* polar search, merge and the journal, as a user meets them: build/polar on two small models,
 * one of which is made so that the programs that answer are known. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "test.h"
#include "command.h"
#ifndef _WIN32
#include <sys/resource.h>
#endif

/* --- a model whose programs are known ------------------------------------------------------------------ */

enum { PLANTED_LAYERS = 4, PLANTED_WIDTH = 32, PLANTED_VOCAB = 259, SEVEN = 256, EIGHT, END };

/* Values of a tensor are `rest` but for one; or random ones, with a seed. */
static void small_tensor(gguf_writer *w, uint64_t *seed, int rows, int row, int column, float value, float rest) {
    for (int i = 0; i < rows * PLANTED_WIDTH; i++) {
        float x = seed && rows > 1 ? 2 * rng_float(seed) - 1 : i == row * PLANTED_WIDTH + column ? value : rest;
        gguf_writer_write_f32(w, &x, 1);
    }
}

static const char *planted_eight = "8"; /* what the second answer says */

static void planted_vocab(gguf_writer *w) {
    static char texts[PLANTED_VOCAB][32];
    static const char *names[PLANTED_VOCAB];
    int32_t types[PLANTED_VOCAB];
    int extra = 0;
    for (int i = 0; i < PLANTED_VOCAB; i++) {
        int shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174 && i <= 255), c = i;
        if (i < 256 && !shown) c = 256 + extra++;
        if (i < 256 && c < 128) texts[i][0] = (char)c;
        else if (i < 256) texts[i][0] = (char)(0xC0 | c >> 6), texts[i][1] = (char)(0x80 | (c & 63));
        names[i] = texts[i];
        types[i] = i == END ? 3 : 1;
    }
    strcpy(texts[SEVEN], "\xc4\xa0\\boxed{7}"); /* U+0120 is the space of this alphabet */
    snprintf(texts[EIGHT], sizeof texts[EIGHT], "\xc4\xa0\\boxed{%s}", planted_eight);
    strcpy(texts[END], "<|endoftext|>");
    gguf_writer_set_string(w, "tokenizer.ggml.model", "gpt2", 4);
    gguf_writer_set_string(w, "tokenizer.ggml.pre", "gpt-2", 5);
    gguf_writer_set_strings(w, "tokenizer.ggml.tokens", names, NULL, PLANTED_VOCAB);
    gguf_writer_set_strings(w, "tokenizer.ggml.merges", names, NULL, 0);
    gguf_writer_set_array(w, "tokenizer.ggml.token_type", POLAR_GGUF_I32, types, PLANTED_VOCAB);
    gguf_writer_set_u32(w, "tokenizer.ggml.eos_token_id", END);
}

static const struct {
    const char *name;
    int rows;
} planted_matrices[] = {{"attn_q", 32},   {"attn_k", 32}, {"attn_v", 32},  {"attn_output", 32},
                        {"ffn_gate", 32}, {"ffn_up", 32}, {"ffn_down", 32}};

static void planted_announce(gguf_writer *w) {
    const int64_t vocab[] = {PLANTED_WIDTH, PLANTED_VOCAB}, square[] = {PLANTED_WIDTH, 32}, vector[] = {PLANTED_WIDTH};
    char name[64];
    gguf_writer_add_tensor(w, "token_embd.weight", 0, 2, vocab);
    gguf_writer_add_tensor(w, "output.weight", 0, 2, vocab);
    gguf_writer_add_tensor(w, "output_norm.weight", 0, 1, vector);
    for (int layer = 0; layer < PLANTED_LAYERS; layer++) {
        for (int i = 0; i < 7; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", layer, planted_matrices[i].name);
            gguf_writer_add_tensor(w, name, 0, 2, square);
        }
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
        gguf_writer_add_tensor(w, name, 0, 1, vector);
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
        gguf_writer_add_tensor(w, name, 0, 1, vector);
    }
}

/* Directions of the residual stream: 0 a colon, 1 any other byte, 2 after an answer, 3 "layer 2 was here". A colon is
 * followed by \boxed{7}; layer 2 turns that into \boxed{8}; an answer is followed by the end. Other layers do nothing.
 * With a seed: random weights instead. */
static void write_model(const char *name, const char *template, uint64_t *seed) {
    static float embedding[PLANTED_VOCAB * PLANTED_WIDTH], out[PLANTED_VOCAB * PLANTED_WIDTH];
    gguf_writer *w;
    CHECK(gguf_writer_open(&w, there(name), NULL, NULL) == POLAR_OK);
    if (!w) return;
    gguf_writer_set_string(w, "general.architecture", "llama", 5);
    gguf_writer_set_string(w, "general.name", "planted", 7);
    if (template) gguf_writer_set_string(w, "polar.prompt_template", template, strlen(template));
    gguf_writer_set_u32(w, "llama.block_count", PLANTED_LAYERS);
    gguf_writer_set_u32(w, "llama.context_length", 1024);
    gguf_writer_set_u32(w, "llama.embedding_length", PLANTED_WIDTH);
    gguf_writer_set_u32(w, "llama.feed_forward_length", 32);
    gguf_writer_set_u32(w, "llama.attention.head_count", 1);
    gguf_writer_set_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    planted_vocab(w);
    planted_announce(w);
    memset(embedding, 0, sizeof embedding);
    memset(out, 0, sizeof out);
    for (int i = 0; i < PLANTED_VOCAB; i++)
        embedding[i * PLANTED_WIDTH + (i == 58 ? 0 : i < 256 ? 1 : 2)] = 1; /* 58 is the colon */
    out[SEVEN * PLANTED_WIDTH] = out[END * PLANTED_WIDTH + 2] = out[EIGHT * PLANTED_WIDTH + 3] = 1;
    for (int i = 0; seed && i < PLANTED_VOCAB * PLANTED_WIDTH; i++) {
        embedding[i] = 2 * rng_float(seed) - 1;
        out[i] = 2 * rng_float(seed) - 1;
    }
    gguf_writer_write_f32(w, embedding, PLANTED_VOCAB * PLANTED_WIDTH);
    gguf_writer_write_f32(w, out, PLANTED_VOCAB * PLANTED_WIDTH);
    small_tensor(w, seed, 1, 0, 0, 1, 1);
    for (int layer = 0; layer < PLANTED_LAYERS; layer++) {
        const float on = layer == 2 ? 10 : 0;
        for (int i = 0; i < 4; i++) small_tensor(w, seed, 32, 0, 0, 0, 0);
        small_tensor(w, seed, 32, 0, 0, on, 0); /* gate and up read direction 0, down writes direction 3 */
        small_tensor(w, seed, 32, 0, 0, on, 0);
        small_tensor(w, seed, 32, 3, 0, on, 0);
        small_tensor(w, seed, 1, 0, 0, 1, 1);
        small_tensor(w, seed, 1, 0, 0, 1, 1);
    }
    CHECK(gguf_writer_finish(w, NULL) == POLAR_OK);
    gguf_writer_close(w);
}

/* --- questions ----------------------------------------------------------------------------------------- */

/* Multiple choice on a random model: every program prefers some letter, so that rewards vary. */
#define CHOICE "polar search -m random.gguf choice.jsonl --prompt '{question}' --reward choice --simulations 24 "

static void write_questions(void) {
    static const char planted[] =
        "{\"question\":\"seven\",\"answer\":\"7\",\"task\":\"t\",\"steps\":2}\n"
        "{\"question\":\"eight\",\"answer\":\"#### 8\"}\n{\"question\":\"nine\",\"answer\":9}\n";
    char text[6000] = "";
    size_t n = 0;
    for (int i = 0; i < 60; i++) {
        if (i == 7) write_file("choice.jsonl", text, n);
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"question\":\"Q%d\",\"options\":[\"a\",\"b\",\"c\"],\"correct\":\"%c\","
                              "\"level\":%d}\n",
                              i, "ABC"[i % 3], i);
    }
    write_file("long.jsonl", text, n);
    write_file("planted.jsonl", planted, sizeof planted - 1);
}

static void prepare(void) {
    uint64_t seed = 5;
    write_model("random.gguf", NULL, &seed);
    write_model("other.gguf", NULL, &seed);
    write_model("planted.gguf", NULL, NULL);
    write_model("template.gguf", "{question}:", NULL);
    planted_eight = "(B)\xc4\xa0ice";
    write_model("letter.gguf", "{question}:", NULL);
    planted_eight = "\\text{(B)}\xc4\xa0ice";
    write_model("styled.gguf", "{question}:", NULL);
    planted_eight = "ice";
    write_model("option.gguf", "{question}:", NULL);
    planted_eight = "8";
    write_questions();
    RUN(CHOICE "-o whole.json", 0, "questions       7, ");
    CHECK(!exists("whole.json.journal"));
}

/* --- the tests ----------------------------------------------------------------------------------------- */

TEST(planted) {
    size_t n = 0;
    char *text;
    RUN("polar search -m planted.gguf planted.jsonl -o planted.json --simulations 120", 0,
        "identity         33.3 %\noracle, skips    66.7 %");
    CHECK(strstr(output, "oracle, loops    33.3 %") && strstr(output, "oracle, both     66.7 %"));
    CHECK(strstr(output, "corrected        50.0 %") && strstr(output, "shortest          1.0 of 4 layers"));
    text = read_back("planted.json", &n);
    CHECK(text &&
          strstr(text, "{\"index\":0,\"question\":\"seven\",\"gt_ans\":\"7\",\"initial_score\":0,\"sample_info\":"
                       "{\"task\":\"t\",\"steps\":2},\"final_valid_transitions\":[["));
    CHECK(text &&
          strstr(text, "\"search_trajectory\":[{\"path\":[0,1,2,3],\"parent_path\":null,\"reward\":0,\"simulation\":0,"
                       "\"answer\":\"8\",\"tokens\":1,\"stop\":\"end\",\"logprob\":"));
    CHECK(text && strstr(text, "{\"index\":1,\"question\":\"eight\",\"gt_ans\":\"8\",\"initial_score\":1,"));
    CHECK(text && strstr(text, "\"prompt\":\"Solve the following math problem and output ONLY the final answer "
                               "directly, formatted strictly as \\\\boxed{ANSWER}.\\n### Problem Start\\n"
                               "{question}\\n### Problem End\\nAnswer:\""));
    free(text);
    /* an answer without the box that the prompt asks for is wrong, and so is any text where none is found */
    RUN("polar search -m planted.gguf planted.jsonl -o - --simulations 0 --prompt 'Use \\boxed{}. {question}\\nA'", 0,
        "identity          0.0 %");
    RUN("polar search -m template.gguf planted.jsonl -o template.json --simulations 0 --json", 0, "\"identity\":1,");
    CHECK(count_in("template.json", "\"prompt\":\"{question}:\",\"chat\":\"raw\"") == 1);
    RUN("polar search -m template.gguf planted.jsonl -o - --simulations 0 --example", 0,
        "Answer: \\\\boxed{2}\\n### Problem Start");
    RUN("polar search -m planted.gguf planted.jsonl -o - --simulations 20 --space loop --json", 0,
        "\"identity\":1,\"oracle_skip\":1,\"oracle_loop\":1,\"oracle_both\":1");
    write_text("p", "now {question}:\n");
    RUN("polar search -m planted.gguf planted.jsonl -o - --simulations 0 --prompt @p", 0,
        "\"prompt\":\"now {question}:\"");
}

/* The paths of a search that keeps `window` proposals waiting, on a question that programs with layer 2 answer right or
 * wrong. All answers are one known token, so that results come in the order of the proposals. */
static int expected_paths(const char *question, int with_layer_2, int window, char *text, size_t size) {
    polar_search_options o = {0};
    polar_search *s = NULL;
    polar_program program;
    double rewards[64];
    int n = 0, reported = 0, id;
    size_t length = 0;
    o.simulations = 60;
    o.max_in_flight = window;
    CHECK(!polar_search_create(&s, PLANTED_LAYERS, question, strlen(question), &o, NULL));
    for (;;) {
        int calls[POLAR_MAX_CALLS], n_calls, found = 0;
        if (n - reported < (reported ? window : 1) && (id = polar_search_next(s, &program)) >= 0) {
            n_calls = polar_program_path(&program, calls, POLAR_MAX_CALLS);
            for (int i = 0; i < n_calls; i++) {
                found |= calls[i] == 2;
                length += (size_t)snprintf(text + length, size - length, "%c%d", i ? ',' : '[', calls[i]);
            }
            length += (size_t)snprintf(text + length, size - length, "]");
            rewards[n++] = found == with_layer_2;
        } else if (reported < n) {
            CHECK(!polar_search_report(s, reported, rewards[reported], NULL));
            reported++;
        } else break;
    }
    polar_search_free(s);
    return n;
}

/* The paths of sample number `index` of a file, likewise. */
static void found_paths(const char *name, int index, char *text, size_t size) {
    size_t n, length = 0;
    char *file = read_back(name, &n), start[32], *s, *end;
    snprintf(start, sizeof start, "{\"index\":%d,", index);
    s = file ? strstr(file, start) : NULL;
    end = s ? strchr(s, '\n') : NULL;
    for (s = s ? strstr(s, "\"search_trajectory\":") : NULL; s && (s = strstr(s, "{\"path\":")) && s < end;) {
        const size_t k = strcspn(s += 8, "]") + 1;
        length += (size_t)snprintf(text + length, size - length, "%.*s", (int)k, s);
    }
    free(file);
}

/* Graded as [P] does: what stands behind the last "Answer:", in a box that need not be closed. */
TEST(last_answer) {
    planted_eight = "8}\xc4\xa0" "Answer:\xc4\xa0" "7\\text{";
    write_model("again.gguf", NULL, NULL);
    planted_eight = "8\\text{";
    write_model("open.gguf", NULL, NULL);
    planted_eight = "8";
    RUN("polar search -m again.gguf planted.jsonl -o - --simulations 0", 0, "identity         33.3 %");
    RUN("polar search -m again.gguf planted.jsonl -o - --simulations 0 --last-answer", 0, "identity          0.0 %");
    CHECK(strstr(output, "Answer:\",\"chat\":\"raw\",\"last_answer\":true"));
    RUN("polar search -m open.gguf planted.jsonl -o - --simulations 0 --tokens 1", 0, "identity          0.0 %");
    RUN("polar search -m open.gguf planted.jsonl -o - --simulations 0 --tokens 1 --last-answer", 0,
        "identity         33.3 %");
    RUN("polar search -m planted.gguf planted.jsonl -o - --prompt '{question}:' --last-answer", 2,
        "--last-answer: the prompt does not end in \"Answer:\"");
    /* one seed: the questions of equal rewards see equal searches */
    RUN("polar search -m planted.gguf planted.jsonl -o one.json --simulations 20 --one-seed --limit 1", 0, "");
    write_text("alike.jsonl", "{\"question\":\"another seven\",\"answer\":\"7\",\"task\":\"t\",\"steps\":2}\n");
    RUN("polar search -m planted.gguf alike.jsonl -o two.json --simulations 20 --one-seed", 0, "");
    RUN("polar search -m planted.gguf alike.jsonl -o own.json --simulations 20", 0, "");
    {
        static char one[8000], two[8000], own[8000];
        found_paths("one.json", 0, one, sizeof one);
        found_paths("two.json", 0, two, sizeof two);
        found_paths("own.json", 0, own, sizeof own);
        CHECK_STR(two, one);
        CHECK(*own && strcmp(own, one));
    }
}

TEST(trajectory) { /* as said by polar_search, for any number in flight, cache and threads */
    static const int windows[] = {1, 3, 8};
    static char expected[16000], found[16000];
    char command[300];
    for (int i = 0; i < 3; i++) {
        for (int way = 0; way < 2; way++) {
            snprintf(command, sizeof command,
                     "polar search -m planted.gguf planted.jsonl -o window%d.json "
                     "--simulations 60 --in-flight %d --cache-mb %d -t %d",
                     way, windows[i], way ? 1 : 1024, 1 + way);
            remove(there(way ? "window1.json" : "window0.json"));
            RUN(command, 0, "questions       3, ");
        }
        CHECK(same_files("window0.json", "window1.json"));
        for (int k = 0; k < 2; k++) {
            expected[0] = found[0] = 0;
            CHECK(expected_paths(k ? "eight" : "seven", k, windows[i], expected, sizeof expected) > 20);
            found_paths("window0.json", k, found, sizeof found);
            CHECK_STR(found, expected);
        }
    }
}

TEST(settings) { /* what must not matter, and what must */
    RUN(CHOICE "-o t.json -t 1 --cache-mb 1", 0, "");
    CHECK(same_files("t.json", "whole.json"));
    RUN(CHOICE "-o s.json --seed 1", 0, "");
    CHECK(!same_files("s.json", "whole.json"));
    RUN(CHOICE "-o - --in-flight 1 2>/dev/null", 0, "\n{\"index\":6,");
    CHECK(!strstr(strstr(output, "\n{\"index\":6,") + 1, "\n{"));
    RUN("polar search -m random.gguf choice.jsonl -o - --prompt '{question}' --simulations 3 --tokens 4 --reward exact",
        0, "\"reward\":\"exact\"");
    RUN(CHOICE "-o whole.json", 0, "polar search: whole.json is complete already\n");
    RUN(CHOICE "-o whole.json --lambda 2", 1,
        "whole.json exists and belongs to another run: settings.lambda is 5 there and 2 here");
    write_text("mine.json", "[]\n");
    RUN(CHOICE "-o mine.json", 1,
        "mine.json exists and is other JSON, not results of a search: remove it or choose another output");
    write_text("mine.json", "{\"samples\":[]}\n");
    RUN(CHOICE "-o mine.json", 1,
        "mine.json exists and belongs to another run: it has no header");
    CHECK(link_there("choice.jsonl", "linked"));
    RUN(CHOICE "-o linked", 2, "polar search: linked and choice.jsonl are the same file");
    RUN("polar merge whole.json -o ./whole.json", 2, "polar merge: ./whole.json and whole.json are the same file");
    copy_file("whole.json", "w.json");
    RUN("polar merge whole.json -o random.gguf", 1, "random.gguf exists and is a model, not results of a search");
    CHECK(same_files("whole.json", "w.json"));
}

TEST(fields) { /* as public data sets have them */
    static const char *const rows[][2] = {
        {"{\"question\": \"g\", \"answer\": \"x <<1+1=2>>\\n#### 1,002\"}", "\"question\":\"g\",\"gt_ans\":\"1,002\""},
        {"{\"problem\": \"m\", \"level\": \"Level 3\", \"type\": \"Algebra\", \"solution\": \"so "
         "$\\\\boxed{\\\\frac12}$.\"}",
         "\"question\":\"m\",\"gt_ans\":\"\\\\frac12\",\"initial_score\":0,\"sample_info\":{\"level\":\"Level "
         "3\",\"subject\":\"Algebra\"}"},
        {"{\"Body\":\"Two birds\",\"Question\":\"How many?\",\"Answer\":2.0}",
         "\"question\":\"Two birds. How many?\",\"gt_ans\":\"2\""},
        {"{\"body\":\"Two birds.\",\"question\":\"How many?\",\"answer\":\"2 (birds)\"}",
         "\"question\":\"Two birds. How many?\",\"gt_ans\":\"2\""},
        {"{\"input\":\"w\",\"target\":6.5}", "\"question\":\"w\",\"gt_ans\":\"6.5\""},
        {"{\"question\":\"a\",\"options\":[\"A)1\",\"B)2\"],\"correct\":\"B\"}",
         "\"question\":\"a\\nAnswer Choices: (A) 1 (B) "
         "2\",\"gt_ans\":\"B\",\"initial_score\":0,\"sample_info\":{\"options\":[\"1\",\"2\"]}"},
        {"{\"sample_info\":{\"question\":\"s\",\"ground_truth\":\"3\"}}", "\"question\":\"s\",\"gt_ans\":\"3\""},
        {"{\"question\":\"l\",\"final_answer\":[\"$4$\"]}", "\"question\":\"l\",\"gt_ans\":\"4\""},
        /* DART-Math, with what its writers make of numbers that JSON has not */
        {"{\"query_id\":\"dart-7\",\"query\":\"q\",\"gt_ans\":\"5\",\"correct\":true,\"level\":3,\"difficulty\":0.25,"
         "\"domain\":\"Algebra\",\"steps\":NaN,\"score\":-Infinity,\"best\":Infinity}",
         "\"question\":\"q\",\"gt_ans\":\"5\",\"initial_score\":0,\"sample_info\":{\"query_id\":\"dart-7\",\"level\":3,"
         "\"difficulty\":\"0.25\",\"domain\":\"Algebra\"},"},
        /* ARC: two lists, or objects inside the question; labels may be numbers */
        {"{\"id\":\"M1\",\"question\":\"r\",\"choices\":{\"text\":[\"ice\",\"fog\"],\"label\":[\"A\",\"B\"]},"
         "\"answerKey\":\"B\"}",
         "\"question\":\"r\\nAnswer Choices: (A) ice (B) fog\",\"gt_ans\":\"B\",\"initial_score\":0,\"sample_info\":"
         "{\"id\":\"M1\",\"options\":[\"ice\",\"fog\"]}"},
        {"{\"question\":{\"stem\":\"t\","
         "\"choices\":[{\"text\":\"3\",\"label\":\"1\"},{\"text\":\"1\",\"label\":\"2\"}]},"
         "\"answerKey\":\"1\"}",
         "\"question\":\"t\\nAnswer Choices: (A) 3 (B) 1\",\"gt_ans\":\"A\""},
        {"{\"question\":\"r2\",\"choices\":{\"text\":[\"ice\",\"fog\",\"sun\"],\"label\":[\"1\",\"2\",\"3\"]},"
         "\"answerKey\":\"2\"}",
         "\"question\":\"r2\\nAnswer Choices: (A) ice (B) fog (C) sun\",\"gt_ans\":\"B\""},
        /* MMLU: the place of the right one, from 0; a number beside `options` is its text */
        {"{\"question\":\"o\",\"options\":[\"2\",\"1\",\"0\"],\"answer\":2}",
         "\"question\":\"o\\nAnswer Choices: (A) 2 (B) 1 (C) 0\",\"gt_ans\":\"A\""},
        {"{\"question\":\"u\",\"subject\":\"law\",\"choices\":[\"2\",\"1\",\"0\"],\"answer\":2}",
         "\"question\":\"u\\nAnswer Choices: (A) 2 (B) 1 (C) 0\",\"gt_ans\":\"C\",\"initial_score\":0,\"sample_info\":"
         "{\"subject\":\"law\",\"options\":[\"2\",\"1\",\"0\"]}"},
        {"{\"question\":\"v\",\"options\":[\"ox\",\"yak\"],\"answer\":\"yak\"}",
         "\"question\":\"v\\nAnswer Choices: (A) ox (B) yak\",\"gt_ans\":\"B\""},
        {"{\"question\":\"x\",\"options\":\"A) one \\nB) two \",\"correct\":\"B\"}",
         "\"question\":\"x\\nAnswer Choices: (A) one (B) two\",\"gt_ans\":\"B\",\"initial_score\":0,\"sample_info\":"
         "{\"options\":[\"one\",\"two\"]}"},
    };
#define ONE_TOKEN "polar search -m random.gguf - -o /dev/null --simulations 0 --tokens 1 --prompt '{question}' --json"
    enum { N = sizeof rows / sizeof *rows };
    static const char search[] =
        "polar search -m random.gguf %s -o - --prompt '{question}' --simulations 0 --tokens 1 2>/dev/null";
    char lines[4100] = "", array[4000] = "[", marked[4100], command[200], first[sizeof output];
    for (int i = 0; i < N; i++) {
        strcat(strcat(lines, rows[i][0]), i % 2 ? "\r\n" : "\n\n");
        strcat(strcat(array, rows[i][0]), i + 1 < N ? ",\n" : "]\n");
    }
    write_file("fields.jsonl", lines, strlen(lines));
    write_file("fields.json", array, strlen(array));
    snprintf(marked, sizeof marked, "\xef\xbb\xbf%s", array);
    write_file("marked.json", marked, strlen(marked));
    snprintf(command, sizeof command, search, "fields.jsonl");
    CHECK(run(command) == 0);
    for (int i = 0; i < N; i++) {
        if (!strstr(output, rows[i][1])) printf("no %s\n", rows[i][1]);
        CHECK(strstr(output, rows[i][1]) != NULL);
    }
    strcpy(first, output);
    snprintf(command, sizeof command, search, "fields.json");
    CHECK(run(command) == 0);
    CHECK_STR(output, first);
    snprintf(command, sizeof command, search, "marked.json"); /* with a byte order mark */
    CHECK(run(command) == 0);
    CHECK_STR(output, first);
    snprintf(command, sizeof command, search, "- <fields.jsonl");
    CHECK(run(command) == 0);
    CHECK_STR(output, first);
    snprintf(lines, sizeof lines, "{\"samples\":%s}", array);
    RUN_ON(lines, ONE_TOKEN, 0, "\"n_questions\":16");
    RUN_ON("{\"a\":{\"question\":\"x\",\"answer\":1},\"b\":{\"question\":\"y\",\"answer\":1}}\n", ONE_TOKEN, 0,
           "\"n_questions\":2");
}

TEST(bad_input) {
    FILE *f = open_there("many.jsonl", "wb");
    for (int i = 1; f && i <= 700; i++)
        fprintf(f, "{\"question\":\"x\"%s\"answer\":1}\n", i < 700 ? "," : " ");
    if (f) fclose(f);
    RUN("polar search -m random.gguf many.jsonl -o x.json", 1,
        "polar search: many.jsonl:700: not JSON: ',' or '}' is expected");
    RUN_ON("[1]\n", "polar search -m random.gguf - -o x.json", 1, "stdin:1: not a JSON object");
    RUN_ON("[{\"question\":\"x\",\"answer\":1},\n{\"question\":\"y\"}]", "polar search -m random.gguf - -o x.json", 1,
        "stdin:2: no answer (looked for answer, gt_ans, ");
    RUN_ON("{\"question\":\"\",\"answer\":1}\n", "polar search -m random.gguf - -o x.json", 1,
        "stdin:1: no question (looked for");
    RUN_ON("[{\"question\":\"x\",\"answer\":1},\n", "polar search -m random.gguf - -o x.json", 1,
        "stdin:2: not JSON: the text ends");
    RUN("polar search -m random.gguf - -o x.json", 1, "stdin: no questions");
    RUN_ON("\xef\xbb\xbf{\"question\":\"x\",\"answer\":NaN}", "polar search -m random.gguf - -o x.json", 1,
        "stdin:1: no answer");
    RUN_ON("{\"question\":\"x\",\"options\":[1,2,3,4,5,6,7,8,9,10,11],\"answer\":1}\n",
           "polar search -m random.gguf - -o x.json", 1, "stdin:1: 11 options, at most 10 are possible");
    RUN("polar search -m random.gguf choice.jsonl", 2, "no output: -o FILE names it");
    RUN("polar search -m random.gguf choice.jsonl -o x.json --shard 3/2", 2, "--shard 3/2: expected 1/4");
    RUN("polar search -m random.gguf choice.jsonl -o x.json --shard 9/9", 1,
        "shard 9 of 9 is empty: there are 7 questions");
    RUN("polar search -m random.gguf choice.jsonl -o x.json --space all", 2,
        "--space all: expected both, skip or loop");
    RUN("polar search -m random.gguf choice.jsonl -o x.json --epsilon 2", 2, "epsilon");
    RUN("polar search -m random.gguf choice.jsonl -o x.json --prompt 'no place'", 2,
        "the text has no place {question}");
    RUN("polar search -m random.gguf planted.jsonl -o x.json --reward choice --prompt '{question}'", 1,
        "line 1 of the questions has no options");
    RUN("polar search -m random.gguf choice.jsonl -o nowhere/x.json", 1,
        "cannot write nowhere/x.json.journal: No such file");
    CHECK(!exists("x.json"));
}

/* A question that the model (of 1024 tokens, here bytes) has no room for, found before the first one is searched. What
 * is left when it is left out is what there is without it, in all parts of a run. */
TEST(long_questions) {
    char line[1100];
    sprintf(line, "{\"question\":\"%01000d\",\"answer\":1}", 0);
    insert_line("planted.jsonl", "lengthy.jsonl", 2, line);
    RUN("polar search -m template.gguf lengthy.jsonl -o l.json --simulations 4", 1,
        "lengthy.jsonl:2: the prompt has 1001 tokens and the answer may have 50, the model was trained for 1024 "
        "together (1 of 4 questions are too long; --skip-long leaves them out)");
    CHECK(!exists("l.json") && !exists("l.json.journal"));
    insert_line("lengthy.jsonl", "both.jsonl", 4, line);
    RUN("polar search -m template.gguf both.jsonl -o l.json", 1, "both.jsonl:2: the prompt has 1001 tokens and the ");
    CHECK(strstr(output, "(2 of 5 questions are too long;") != NULL);
    RUN("polar search -m template.gguf lengthy.jsonl -o /dev/null --simulations 0 --tokens 23", 0,
        "questions       4,");
    RUN("polar search -m template.gguf lengthy.jsonl -o l.json --simulations 4 --skip-long", 0,
        "polar search: lengthy.jsonl: 1 of 4 questions are too long for the model and left out\n");
    RUN("polar search -m template.gguf planted.jsonl -o kept.json --simulations 4", 0, "");
    CHECK(same_files("l.json", "kept.json"));
    RUN("polar search -m template.gguf lengthy.jsonl -o l1.json --simulations 4 --skip-long --shard 1/2", 0, "");
    RUN("polar search -m template.gguf lengthy.jsonl -o l2.json --simulations 4 --skip-long --shard 2/2", 0, "");
    RUN("polar merge l1.json l2.json -o m.json", 0, "");
    CHECK(same_files("m.json", "kept.json"));
    RUN_ON(line, "polar search -m template.gguf - -o x.json --skip-long", 1, "(1 of 1 questions are too long)");
    /* results of a search with such a question among them */
    for (int way = 0; way < 2; way++) {
        FILE *f = open_there(way ? "found.json" : "short.json", "wb");
        CHECK(f != NULL);
        if (!f) return;
        fprintf(f, "[\n");
        copy_lines(f, "kept.json", 3, 3);
        if (way) fprintf(f, "%s,\n", line);
        copy_lines(f, "kept.json", 4, 5);
        fprintf(f, "]\n");
        fclose(f);
    }
    RUN("polar search -m template.gguf short.json --menu 3 --skip-long -o short.menu", 0, "");
    RUN("polar search -m template.gguf found.json --menu 3 --skip-long -o found.menu", 0,
        "found.json: 1 of 4 questions are too long");
    CHECK(same_files("found.menu", "short.menu"));
}

/* An option is right by its letter, or by its text where no letter stands before it. */
TEST(choices) {
    char line[200];
    static const char *const models[] = {"letter", "styled", "option"};
    for (int i = 0; i < 6; i++) { /* the first two say (B) ice, option.gguf ice */
        sprintf(line, "{\"question\":\"c\",\"choices\":{\"text\":[\"ice\",\"fog\"],\"label\":[\"A\",\"B\"]},"
                      "\"answerKey\":\"%c\"}\n", "AB"[i % 2]);
        write_text("choice", line);
        sprintf(line, "polar search -m %s.gguf choice -o - --simulations 0", models[i / 2]);
        RUN(line, 0, (i < 4) == i % 2 ? "\"initial_score\":1" : "\"initial_score\":0");
    }
}

/* What the file says about its questions stays with them, and the page has tables by it. */
TEST(groups) {
    size_t n = 0;
    char *page;
    FILE *f = open_there("dart.jsonl", "wb");
    for (int i = 1; f && i <= 4; i++)
        fprintf(f, "{\"query\":\"q%d\",\"gt_ans\":%d,\"query_id\":\"d%d\",\"difficulty\":%d,\"domain\":\"<%d>\"}\n", i,
                i % 2 + 7, i, i * 5 % 8, i % 2);
    if (f) fclose(f);
    RUN("polar search -m template.gguf dart.jsonl -o dart.json --simulations 60", 0, "");
    CHECK(count_in("dart.json", "\"query_id\":") == 4);
    RUN("polar report dart.json -o dart.html", 0, "");
    page = read_back("dart.html", &n);
    CHECK(page && strstr(page, "by difficulty") &&
          strstr(page, "<td class=\"l\">2</td><td>1</td><td>0.0 %</td><td>100.0 %"));
    CHECK(page && strstr(page, "<td class=\"l\">&lt;0&gt;</td><td>2</td><td>0.0 %</td><td>100.0 %</td>") &&
          strstr(page, "<td class=\"l\">&lt;1&gt;</td><td>2</td><td>100.0 %</td>") && !strstr(page, "by task"));
    free(page);
}

/* Files of other kinds are named, as questions and as models. */
TEST(other_kinds) {
#define BYTES(text) text, sizeof text - 1
    static const struct {
        const char *bytes;
        size_t n;
        const char *name;
    } kinds[] = {
        {BYTES("\037\213\010\000abc"), "gzip data"},
        {BYTES("PAR1abcd"), "a Parquet file"},
        {BYTES("\377\376{\000\"\000"), "UTF-16 text"},
        {BYTES("{\000\"\000q\000"), "UTF-16 text"},
        {BYTES("\000{\000\"\000q"), "UTF-16 text"},
        {BYTES("\100\000\000\000\000\000\000\000{\"w\":{}}"), "a safetensors file"},
        {BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"), "a Git LFS pointer"},
        {BYTES("\n<!DOCTYPE html>\n<html></html>"), "HTML or XML"},
        {BYTES("question,answer\nWhat is 1+1?,2\n"), "a table of comma or tab separated values"},
        {BYTES("\357\273\277question\tanswer\n1\t2\n"), "a table of comma or tab separated values"},
        {BYTES("PK\003\004abc"), "a ZIP archive"},
    };
    for (int i = 0; i < COUNT(kinds); i++) {
        write_file("kind", kinds[i].bytes, kinds[i].n);
        RUN("polar search -m random.gguf kind -o x.json", 1, "polar search: kind is ");
        CHECK(strstr(output, kinds[i].name) != NULL);
        RUN("polar search -m kind choice.jsonl -o x.json", 1, "; it is ");
        CHECK(strstr(output, kinds[i].name) != NULL);
    }
    RUN("polar search -m choice.jsonl choice.jsonl -o x.json", 1, "; it is JSON text");
    RUN("polar search -m random.gguf random.gguf -o x.json", 1, "random.gguf is a GGUF file; questions");
    RUN_ON("pred,gold\n1,2\n", "polar grade --jsonl", 1, "stdin is a table of comma");
    CHECK(!exists("x.json"));
}

#define SLOW "polar search -m random.gguf long.jsonl --prompt '{question}' --reward choice -t 1 --simulations 100 "

TEST(kill) { /* killed again and again, each time with a journal a little longer, it ends with the same bytes */
    uint64_t seed = 3;
    int n = 0, finished = 0;
    RUN(SLOW "-o slow.json", 0, "");
    for (long size = 1; n < 100 && !finished; n++) {
        const int ended = exists("killed.json"); /* killed behind the last step: the next one is left alone */
        const intptr_t process = start(SLOW "-o killed.json");
        for (int i = 0; i < 20000 && size_there("killed.json.journal") < size && !exists("killed.json"); i++)
            wait_a_little();
        size = size_there("killed.json.journal") + 1 + (long)(rng_next(&seed) % 60000);
        finished = !finish(process, ended ? 0 : SIGKILL);
    }
    CHECK(finished && same_files("killed.json", "slow.json") && !exists("killed.json.journal"));
    if (n == 1) SKIP("the %s ended before it could be killed", "search");
}

/* The journal of a run, to be freed, and its file cut in the middle: a directory has the name of the output. */
static char *make_journal(const char *name, size_t *n) {
    char command[400], journal[64];
    char *text;
    snprintf(command, sizeof command, CHOICE "-o %s", name);
    snprintf(journal, sizeof journal, "%s.journal", name);
    CHECK(!mkdir(there(name), 0777) && run(command) == 1 && !rmdir(there(name)));
    text = read_back(journal, n);
    CHECK(text != NULL);
    if (text) write_file(journal, text, *n / 2);
    return text;
}

TEST(torn) {
    size_t n = 0, lines = 0;
    char *text = make_journal("torn.json", &n);
    uint64_t seed = 1;
    CHECK(text != NULL);
    if (!text) return;
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    for (int i = 0; i < test_repeat(6); i++) { /* cut anywhere, in the header too */
        write_file("torn.json.journal", text, (size_t)(rng_next(&seed) % (n + 1)));
        remove(there("torn.json"));
        RUN(CHOICE "-o torn.json", 0, "questions       7");
        CHECK(same_files("torn.json", "whole.json"));
    }
    text[n / 2] ^= 1; /* damage that is no torn end is not passed over */
    write_file("torn.json.journal", text, n);
    CHECK(lines > 2);
    remove(there("torn.json"));
    RUN(CHOICE "-o torn.json", 1, ": this line is damaged, and whole ones follow it");
    write_text("torn.json.journal", "hello\n");
    RUN(CHOICE "-o torn.json", 1, "torn.json.journal is no journal");
    free(text);
}

TEST(resume) { /* goes on only with what it began with */
    size_t n = 0;
    char *text = make_journal("again.json", &n);
    CHECK(text != NULL);
    if (!text) return;
    RUN("polar search -m other.gguf choice.jsonl --prompt '{question}' --reward choice --simulations 24 -o again.json",
        1, "again.json.journal belongs to another run: model.checksum is \"");
    RUN(CHOICE "-o again.json --seed 3", 1,
        "settings.seed is 0 there and 3 here; remove it or choose another output to begin anew");
    CHECK(count_in("again.json.journal", ",\"in_flight\":8,\"trajectory\":2,") == 1); /* the rule of proposals */
    RUN(CHOICE "-o again.json --limit 6", 1, "questions.n is 7 there and 6 here");
    RUN(CHOICE "-o again.json --shard 1/2", 1, "shard is not set there and a list of 2 here");
    RUN(CHOICE "-o again.json -t 1", 0, "polar search: again.json.journal: going on after ");
    CHECK(same_files("again.json", "whole.json"));
    free(text);
}

TEST(interrupt) {
    const intptr_t process = start(SLOW "-o int.json 2>said");
    int status;
    while (size_there("int.json.journal") <= 0 && !exists("int.json")) wait_a_little();
    status = finish(process, SIGINT);
    if (!status) SKIP("the run was over before it could be interrupted");
    else if (!INTERRUPTS) SKIP("programs are ended, not interrupted");
    else CHECK(status == 1 && count_in("said", "polar search: interrupted after ") == 1 && !exists("int.json"));
    RUN(SLOW "-o int.json", 0, "oracle, both");
    CHECK(same_files("int.json", "slow.json"));
}

TEST(disk_full) {
#ifdef _WIN32
    SKIP("nothing is like a full disk");
#else
    struct rlimit all, little;
    if (access("/dev/full", F_OK)) {
        SKIP("there is no /dev/full");
        return;
    }
    RUN(CHOICE "-o /dev/full", 1, "cannot write /dev/full: No space left on device");
    CHECK(!symlink("/dev/full", there("full.json.journal")));
    RUN(CHOICE "-o full.json", 1,
        "cannot write full.json.journal: No space left on device; what was recorded before is kept");
    /* a bound on the size of files: the journal stays whole up to there, and the run goes on when there is room */
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!getrlimit(RLIMIT_FSIZE, &all));
    little = all;
    little.rlim_cur = 6144;
    CHECK(!setrlimit(RLIMIT_FSIZE, &little));
    RUN(CHOICE "-o small.json", 1, "cannot write small.json.journal: File too large");
    CHECK(!setrlimit(RLIMIT_FSIZE, &all));
    RUN(CHOICE "-o small.json", 0, "small.json.journal: going on after ");
    CHECK(!strstr(output, "is dropped") && same_files("small.json", "whole.json"));
#endif
}

TEST(shards) {
    RUN(CHOICE "-o part2.json --shard 2/3", 0, "");
    RUN(CHOICE "-o part1.json --shard 1/3", 0, "");
    RUN(CHOICE "-o part3.json --shard 3/3", 0, "");
    RUN("polar merge part3.json part1.json part2.json -o merged.json", 0, "questions       7, ");
    CHECK(same_files("merged.json", "whole.json"));
    RUN("polar merge part3.json part1.json -o x.json", 1,
        "polar merge: missing: part 2 of 3; --partial joins what there is");
    RUN("polar merge part3.json part1.json -o - --partial", 0, "\"missing_parts\":[2]}");
    RUN("polar merge part3.json part1.json part3.json -o x.json", 1, "part3.json and part3.json are both part 3 of 3");
    RUN("polar merge part3.json whole.json -o x.json", 1, "part3.json is one of 3 parts and whole.json one of 1");
    RUN(CHOICE "-o other1.json --seed 1 --shard 1/3", 0, "");
    RUN("polar merge other1.json part2.json part3.json -o x.json", 1,
        "no parts of one run: settings.seed is 1 there and 0 here");
    RUN("polar merge whole.json planted.jsonl -o x.json", 1, "has a header of polar search and planted.jsonl has none");
    RUN("polar merge planted.jsonl planted.jsonl -o x.json", 1,
        "planted.jsonl:1: this question is in planted.jsonl, too, at line 1");
    CHECK(!exists("x.json"));
}

TEST(parallel) { /* parts that run at the same time */
    const intptr_t first = start(CHOICE "-t 1 -o spread1.json --shard 1/2 2>said1");
    const intptr_t second = start(CHOICE "-t 1 -o spread2.json --shard 2/2 2>said2");
    CHECK(!finish(first, 0) && !finish(second, 0));
    RUN("polar merge spread1.json spread2.json -o spread.json", 0, "questions       7, ");
    CHECK(same_files("spread.json", "whole.json"));
}

/* Number of the programs whose result a sample of the file holds. */
static int count_paths(const char *name) {
    size_t n = 0;
    char *text = read_back(name, &n);
    int paths = 0;
    for (const char *s = text; s && (s = strstr(s, "{\"path\":")); s++) paths++;
    free(text);
    return paths;
}

TEST(menu) { /* every program of the menu is tried on every question; old results stay */
    int before = count_paths("whole.json");
    RUN("polar search -m random.gguf whole.json --menu 12 -o menu.json", 0, "questions       7, ");
    CHECK(count_paths("menu.json") > before);
    CHECK(count_in("menu.json", "\"menu\":[\"0-3\",\"") == 1);
    RUN("polar search -m random.gguf menu.json --menu 12 -o menu2.json --json", 0, "\"n_questions\":7");
    CHECK(count_paths("menu2.json") >= count_paths("menu.json"));
    RUN("polar search -m random.gguf whole.json --menu 12 -o menu-1.json --shard 1/2", 0, "");
    RUN("polar search -m random.gguf whole.json --menu 12 -o menu-2.json --shard 2/2", 0, "");
    RUN("polar merge menu-1.json menu-2.json -o menu3.json", 0, "questions       7, ");
    CHECK(same_files("menu3.json", "menu.json"));
    RUN("polar search -m other.gguf whole.json --menu 12 -o x.json", 1, "whole.json was made with another model");
    RUN("polar search -m random.gguf - --menu 12 -o x.json <whole.json", 2, "--menu needs a file");
    RUN("polar search -m random.gguf whole.json --menu 3 --also 1x3 --also identity -o named.json --json", 0,
        "\"n_questions\":7");
    CHECK(count_in("named.json", "\"0 1x3 2-3\"]") == 1);
    CHECK(count_in("named.json", "\"path\":[0,1,1,1,2,3]") == 7); /* run on every question */
    RUN("polar search -m random.gguf whole.json --also 1x3 -o x.json", 2, "--also adds programs to a menu");
    RUN("polar search -m random.gguf whole.json --menu 3 --also 9x3 -o x.json", 2, "--also \"9x3\": ");
}

/* Programs with damped segments have no path: they stand in lists of their own, as text, and are read from there. */
TEST(damped) {
    int before, found;
    RUN(CHOICE "--damped 3 -o damped.json", 0, "questions       7, ");
    CHECK(count_in("damped.json", "\"max_damped\":3") == 1 && count_in("whole.json", "damped") == 0);
    before = count_in("damped.json", "{\"program\":\"");
    CHECK(before > 20 && before < 7 * 60 && count_in("damped.json", "_programs\":[\"") >= 7);
    found = count_in("damped.json", "~2") + count_in("damped.json", "~3");
    CHECK(found >= 2 * before); /* in the list and in the trajectory */
    RUN("polar search -m random.gguf damped.json --menu 12 --also 1~2 -o damped2.json", 0, "questions       7, ");
    CHECK(count_in("damped2.json", "{\"program\":\"") >= before && count_in("damped2.json", "\"0 1~2 2-3\"") > 7);
    RUN("polar merge damped2.json -o damped3.json", 0, "questions       7, ");
    RUN("polar report damped3.json -o damped.html", 0, "");
    CHECK(count_in("damped.html", "in damped passes") == 1);
}

/* Edits that were useful come first: on this model the programs without layer 2 answer 7, the others 8, so that one
 * program is enough where the prior knows it, for wrong questions and for right ones. */
TEST(prior) {
    write_text("p-new.jsonl", "{\"question\":\"a\",\"answer\":\"7\"}\n{\"question\":\"b\",\"answer\":\"7\"}\n"
                            "{\"question\":\"c\",\"answer\":\"7\"}\n{\"question\":\"d\",\"answer\":\"8\"}\n"
                            "{\"question\":\"e\",\"answer\":\"8\"}\n{\"question\":\"f\",\"answer\":\"7\"}\n");
    RUN("polar search -m planted.gguf planted.jsonl -o taught.json --simulations 120", 0, "");
    RUN("polar search -m planted.gguf p-new.jsonl -o p-new.json --simulations 1 --prior taught.json", 0,
        "identity         33.3 %");
    CHECK(strstr(output, "questions       6, 12 programs run") && strstr(output, "corrected       100.0 %"));
    CHECK(count_in("p-new.json", "\"final_valid_transitions\":[[0,1,2,3],[") == 2); /* the right ones are shortened */
    CHECK(count_in("p-new.json", "\"prior\":\"") == 1 && count_in("p-new.json", "\"prior_questions\":3") == 1);
    RUN("polar search -m planted.gguf p-new.jsonl -o p-none.json --simulations 1", 0, "");
    CHECK(!strstr(output, "corrected       100.0 %") && !count_in("p-none.json", "prior"));
    /* the first programs are those of a menu; what the tree proposes of them is not run again */
    RUN("polar search -m planted.gguf p-new.jsonl -o p-first.json --simulations 1 --prior taught.json --first 1", 0,
        "corrected       100.0 %");
    CHECK(count_in("p-first.json", "\"simulation\":-1") == 6 && count_in("p-first.json", "\"first\":1") == 1);
    RUN("polar search -m planted.gguf p-new.jsonl -o p-first40.json --simulations 40 --prior taught.json --first 20", 0,
        "");
    {
        static char paths[16000];
        for (int i = 0; i < 6; i++) {
            char *path = paths;
            int n = 0;
            found_paths("p-first40.json", i, paths, sizeof paths);
            for (char *end; (end = strchr(path, ']')); path = end + 1, n++) {
                char path_text[64];
                snprintf(path_text, sizeof path_text, "%.*s", (int)(end + 1 - path), path);
                CHECK(!strstr(end, path_text)); /* none twice */
            }
            CHECK(n > 21 && n <= 41);
        }
    }
    RUN("polar search -m other.gguf p-new.jsonl -o x.json --prior taught.json", 1,
        "taught.json was made with another model: its checksum is ");
    write_text("p-bare.json", "{\"samples\":[]}\n");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --prior p-bare.json", 1,
        "p-bare.json has no header of polar search");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --prior planted.jsonl", 1, "planted.jsonl has no header");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --prior taught.json --pilot 2", 2, "exclude each other");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --first 3", 2, "--first: --prior or --pilot says");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --pilot 6", 2,
        "has 6 questions, of which some must be left");
    RUN("polar search -m planted.gguf p-new.jsonl -o x.json --rule released --prior taught.json", 2, "textbook rule");
    CHECK(!exists("x.json"));
}

/* The header of a file with other samples behind it. */
static void write_samples_like(const char *name, const char *like, const char *samples) {
    size_t n;
    char *text = read_back(like, &n), *end = text ? strstr(text, "\"samples\":[") : NULL;
    CHECK(end != NULL);
    if (end) {
        char *out = malloc(n + strlen(samples) + 20);
        const size_t before = (size_t)(end - text) + 11;
        memcpy(out, text, before);
        strcpy(out + before, samples);
        write_file(name, out, before + strlen(samples));
        free(out);
    }
    free(text);
}

/* Samples of which nothing can be learned, and those that are none. */
TEST(bad_prior) {
    static const char *const samples[][2] = {
        {"]}\n", "h.json: no question has a result of the identity, so that nothing is taught"},
        {"{\"final_valid_transitions\":[[0,1]]}]}\n", "h.json: no question has a result of the identity"},
        {"{\"search_trajectory\":[{\"path\":7,\"reward\":1}]}]}\n", "h.json:2: a path is no list of layers"},
        {"{\"final_valid_transitions\":[[0,1,2,3],[99],[-1],[]]},", "h.json"}};
    for (int i = 0; i < (int)COUNT(samples); i++) {
        write_samples_like("h.json", "whole.json", samples[i][0]);
        RUN(CHOICE "-o x.json --prior h.json", 1, samples[i][1]);
    }
    /* programs that this model has not are passed over */
    write_samples_like("h.json", "whole.json", "{\"final_valid_transitions\":[[0,1,2,3],[99],[-1],[],[0,2]],"
                                               "\"final_invalid_transitions\":[[3,2,1,0]]}]}\n");
    RUN(CHOICE "-o h2.json --prior h.json --first 9", 0, "questions       7");
    CHECK(!exists("x.json") && !count_in("h2.json", "[99") && !count_in("h2.json", "[3,2,1,0]"));
}

/* The same bytes by one run, by parts that are joined, and after an end in the middle. */
static void check_pieces(const char *options) {
    char command[500];
    size_t n = 0;
    char *text;
    const char *const outputs[] = {"-o piece.json", "-o piece1.json --shard 1/3", "-o piece2.json --shard 2/3",
                                   "-o piece3.json --shard 3/3", "-o whole_again.json -t 1"};
    for (int i = 0; i < (int)COUNT(outputs); i++) {
        snprintf(command, sizeof command, CHOICE "%s %s", options, outputs[i]);
        if (i == 4) CHECK(!mkdir(there("whole_again.json"), 0777));
        RUN(command, i == 4, "");
    }
    CHECK(!rmdir(there("whole_again.json")) && (text = read_back("whole_again.json.journal", &n)));
    for (size_t cut = 1; cut < 8; cut++) {
        write_file("whole_again.json.journal", text, n * cut / 8);
        RUN(command, 0, "");
        CHECK(same_files("whole_again.json", "piece.json"));
        remove(there("whole_again.json"));
    }
    free(text);
    RUN("polar merge piece3.json piece1.json piece2.json -o piece123.json", 0, "questions       7, ");
    CHECK(same_files("piece123.json", "piece.json") && !same_files("piece.json", "whole.json"));
    for (int i = 0; i < 4; i++) {
        const char *const names[] = {"piece.json", "piece1.json", "piece2.json", "piece3.json"};
        remove(there(names[i]));
    }
    remove(there("piece123.json"));
}

TEST(prior_pieces) {
    check_pieces("--prior whole.json --first 4");
    check_pieces("--pilot 4 --first 3");
    RUN(CHOICE "--pilot 4 -o pilot.json", 0, ""); /* its questions are searched as ever, with more simulations */
    RUN(CHOICE "--simulations 200 --limit 4 -o four.json", 0, "");
    {
        static char one[20000], two[20000];
        found_paths("pilot.json", 3, one, sizeof one);
        found_paths("four.json", 3, two, sizeof two);
        CHECK(*one);
        CHECK_STR(one, two);
    }
    RUN(CHOICE "--prior four.json -o by-four.json", 0, "");
    {
        static char one[20000], two[20000];
        found_paths("pilot.json", 5, one, sizeof one);
        found_paths("by-four.json", 5, two, sizeof two);
        CHECK_STR(one, two); /* and teach the same as a file of them */
    }
}

TEST(ends) { /* a question ends early, and says why */
    RUN("polar search -m planted.gguf planted.jsonl -o p-all.json --simulations 60 --in-flight 1", 0, "");
    CHECK(!count_in("p-all.json", "\"ended\""));
    RUN("polar search -m planted.gguf planted.jsonl -o p-ends.json --simulations 60 --in-flight 1 --enough 2 "
        "--give-up 20 --json",
        0, "\"n_questions\":3");
    CHECK(count_in("p-ends.json", ",\"enough\":2,\"give_up\":20") == 1);
    CHECK(count_in("p-ends.json", "\"ended\":\"enough\"") == 1); /* eight */
    CHECK(count_in("p-ends.json", "\"ended\":\"given up\"") == 2); /* seven, too early, and nine */
    {
        static char paths[8000], all[8000];
        int n = 0;
        found_paths("p-ends.json", 2, paths, sizeof paths);
        found_paths("p-all.json", 2, all, sizeof all);
        for (char *s = paths; (s = strchr(s, ']')); s++) n++;
        CHECK(n == 21 && !strncmp(paths, all, strlen(paths))); /* the identity and 20, as they would have come */
    }
    RUN("polar search -m planted.gguf planted.jsonl -o p-short.json --simulations 120 --short-enough 0.25", 0, "");
    CHECK(count_in("p-short.json", "\"ended\":\"short enough\"") == 2);
    RUN("polar search -m planted.gguf planted.jsonl -o p-full.json --simulations 60 --short-enough 1", 0, "");
    CHECK(count_in("p-full.json", "\"initial_score\":1,") == 1);
    {
        static char paths[8000];
        found_paths("p-full.json", 1, paths, sizeof paths);
        CHECK_STR(paths, "[0,1,2,3]"); /* the identity is enough there */
    }
    RUN("polar search -m planted.gguf planted.jsonl -o x.json --enough -1", 2, "expected numbers > 0");
    RUN("polar search -m random.gguf whole.json --menu 3 --enough 1 -o x.json", 2, "--menu runs none");
}

/* --search checks by itself that all ways to evaluate give the same. */
TEST(bench) {
    RUN("polar bench -m random.gguf -p 8 -n 2 -r 1 --program 0x2 --json", 0, ",\"cost\":1.25,\"prefill_time\":");
    RUN("polar bench -m random.gguf -p 8 -n 2 -r 1 --program 0-3", 0, "peak MB");
    CHECK(!strstr(output, "cost"));
    RUN("polar bench -m random.gguf -p 8 -n 2 -r 1 --batch 4 --cpu-time --json", 0, "{\"sessions\":4,\"decode_tps\":");
    CHECK(strstr(output, "{\"sessions\":1,") && strstr(output, ",\"speedup\":1.000}") && !strstr(output, ":8,"));
    RUN("polar bench --search -m random.gguf -p 20 --programs 8 --in-flight 4 --max-tokens 5 --alone 2 "
        "--parts -t 1 --json",
        0, "\"parts\":\"share+batch+draft\",\"prompt\":20,\"programs\":9,\"in_flight\":4,");
    CHECK(strstr(output, "\"parts\":\"alone\"") && strstr(output, "\"parts\":\"share+batch\""));
    RUN("polar bench --search -m random.gguf -p 20 --programs 4 --max-tokens 2 --alone 1", 0, "\nshare+batch+draft ");
    RUN("polar bench --search -m random.gguf --in-flight 0", 2, "polar bench: expected --programs, ");
}

/* Coverage of questions that can be counted by hand: seven and nine are wrong, eight is right. */
TEST(coverage) {
    RUN("polar search -m planted.gguf planted.jsonl -o taught.json --simulations 120", 0, "");
    write_text("asked.jsonl", "{\"question\":\"A\",\"answer\":\"7\"}\n{\"question\":\"B\",\"answer\":\"9\"}\n"
                              "{\"question\":\"C\",\"answer\":\"8\"}\n{\"question\":\"eight\",\"answer\":\"8\"}\n");
    RUN("polar bench --search --coverage asked.jsonl --prior taught.json -m planted.gguf --programs 60 --few 10 "
        "--alone 2 -t 1 --json",
        0, "1 questions are left out: the prior was made of them");
    CHECK(strstr(output, "{\"way\":\"textbook\",\"programs\":40,\"passes\":"));
    CHECK(strstr(output, "\"corrected\":5e+01,\"shortened\":1e+02,\"shortest\":2}"));
    CHECK(strstr(output, "{\"way\":\"released rule\",\"programs\":5,"));
    CHECK(strstr(output, "{\"way\":\"menu, then prior\",\"programs\":10,"));
    CHECK(strstr(output, "{\"way\":\"prior\",\"programs\":5,\"passes\":"));
    CHECK(strstr(output, "{\"way\":\"textbook, one at a time\",\"seconds\":"));
    RUN("polar bench --search --coverage asked.jsonl -m planted.gguf --programs 5 --alone 1", 0,
        "4 questions, of which the identity answers 2; layer calls per question, in passes through all layers\n");
    CHECK(!strstr(output, "menu") && strstr(output, "\nsingle edits at random "));
    RUN("polar bench --coverage asked.jsonl -m planted.gguf", 2, "--coverage goes with --search");
    RUN("polar bench --search --coverage asked.jsonl -m planted.gguf --few 64", 2, "--few 1..63");
    RUN("polar bench --search --coverage asked.jsonl -m other.gguf --prior taught.json", 1, "another model");
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(planted), T(last_answer), T(trajectory), T(settings), T(fields), T(bad_input), T(long_questions), T(other_kinds),
    T(choices), T(groups),
    T(kill), T(torn), T(resume), T(interrupt),
    T(disk_full), T(shards), T(parallel), T(menu), T(damped), T(prior), T(bad_prior),
    T(prior_pieces), T(ends), T(bench), T(coverage),
};

int main(int argc, char **argv) {
    prepare();
    return test_main(tests, COUNT(tests), argc, argv);
}
