/* polar train, predict and run -p, as a user meets them: build/polar on a small model and on
 * results made by a rule: cats need the identity or less, dogs a loop. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "../examples/answer/answer.h"
#include "../examples/cli/json.c"
#include "../examples/demo/story.c"
#undef PICK
#include "saved.h"
#include "test.h"
#include "command.h"
#include "fixture.h"

static void write_model(const char *name, uint64_t seed) {
    fixture f = fixture_model("llama", QUANT_Q8_0, seed);
    write_file(name, f.data, f.size);
    free(f.data);
}

/* A result in the forms of the public files and of polar search: paths as lists or as objects, with a trajectory. */
static void write_sample(FILE *f, int i) {
    const int dogs = i % 2, more = i % 5;
    fprintf(f, "%s{\"question\":\"%d %s", i ? ",\n" : "", i, dogs ? "dogs" : "cats");
    for (int k = 0; k < more; k++) fprintf(f, ", one more");
    fprintf(f, "?\",\"gt_ans\":\"1\",\"initial_score\":%s,", dogs ? "0.0" : i % 4 ? "true" : "1");
    if (dogs)
        fprintf(f, "\"final_valid_transitions\":[[0,1,2,3,2,3]],\"final_invalid_transitions\":[{\"path\":[0,1,3]}],");
    else fprintf(f, "\"final_valid_transitions\":[{\"path\":[0,1,3]}],\"final_invalid_transitions\":[[0,1,2,3,2,3]],");
    fprintf(f, "\"search_trajectory\":[");
    for (int p = 0; p < 3; p++)
        fprintf(f,
                "%s{\"path\":[%s],\"parent_path\":null,\"reward\":%d,\"simulation\":%d,\"answer\":\"x\","
                "\"tokens\":2,\"stop\":\"end\",\"logprob\":%s}",
                p ? "," : "", p == 0 ? "0,1,2,3" : p == 1 ? "0,1,3" : "0,1,2,3,2,3", dogs == (p == 2), p,
                dogs == (p == 2) ? "-0.2" : "-2");
    fprintf(f, "]}");
}

static void write_found(const char *name, int n) {
    FILE *f = open_there(name, "wb");
    CHECK(f != NULL);
    if (!f) return;
    fprintf(f, "{\"samples\":[");
    for (int i = 0; i < n; i++) write_sample(f, i);
    fprintf(f, "]}\n");
    fclose(f);
}

#define TRAIN "polar train -m model.gguf found.json --prompt 'Q: {question}' --width 16 --epochs 3 --menu-epochs 12 "

TEST(train) {
    RUN(TRAIN "-o p.gguf --price 0.2 --cache features --threads 1", 0,
        "on 32 held-out questions with all results known, price 0.2:");
    CHECK(strstr(output, "programs        144 questions, 16 held out") &&
          strstr(output, "menu            128 questions, 32 held out"));
    CHECK(strstr(output, "  menu          100.0 %  cost ") && strstr(output, "cascade         threshold -") &&
          strstr(output, " for 3 programs, fitted on 32 held-out questions: 100.0 %, cost "));
    /* no other bit with other threads */
    RUN(TRAIN "-o q.gguf --price 0.2 --threads 3", 0, "q.gguf\n");
    CHECK(same_files("p.gguf", "q.gguf"));
    RUN(TRAIN "-o q.gguf --price 0.2 --cache features", 0, "q.gguf\n");
    CHECK(same_files("p.gguf", "q.gguf"));
    RUN(TRAIN "-o q.gguf --price 0.2 --cache features --layer 1", 0,
        "features is of other questions, another model or other options");
    RUN(TRAIN "-o q.gguf --seed 1", 0, "q.gguf\n");
    CHECK(!same_files("p.gguf", "q.gguf"));
    RUN(TRAIN "-o m.gguf --heads menu --features embedding --json", 0, "\"menu\":{\"n_questions\":128");
    CHECK(!strstr(output, "\"programs\":{") && strstr(output, "\"cascade_threshold\":-"));
    RUN(TRAIN "-o r.gguf --heads programs --json", 0, "\"curve\":[{\"epoch\":1,\"loss\":");
    CHECK(!strstr(output, "\"menu\""));
    RUN("polar predictor info p.gguf", 0, "hidden after layer 2, at most 512 tokens");
    CHECK(strstr(output, "prompt      \"Q: {question}\"") && strstr(output, "cascade     3 programs") &&
          strstr(output, "price 0.2"));
    CHECK(!exists("p.gguf.checkpoint") && !exists("q.gguf.checkpoint"));
}

TEST(resume) {
    intptr_t process;
    RUN(TRAIN "--epochs 15 -o whole.gguf --heads programs", 0, "whole.gguf");
    process = start(TRAIN "--epochs 15 -o part.gguf --heads programs 2>said");
    while (!exists("part.gguf.checkpoint")) {}
    CHECK(finish(process, SIGTERM) == (INTERRUPTS ? 1 : -1) && !exists("part.gguf"));
    if (!INTERRUPTS) SKIP("programs are ended, not interrupted");
    else CHECK(count_in("said", "interrupted; the same command goes on from part.gguf.checkpoint") == 1);
    RUN(TRAIN "--epochs 15 -o part.gguf --heads programs --seed 3", 1,
        "is of an earlier run: the state of a training with other options or other data; --restart begins anew");
    RUN(TRAIN "--epochs 15 -o part.gguf --heads programs", 0, "going on from part.gguf.checkpoint");
    CHECK(same_files("whole.gguf", "part.gguf") && !exists("part.gguf.checkpoint"));
}

TEST(predict) {
    RUN("polar predict -m model.gguf -p p.gguf '7 dogs, one more?'", 0, "##22");
    CHECK(strstr(output, "menu, best by probability - 0.2 * cost") && strstr(output, "  1  P 0.9"));
    RUN("polar predict -m model.gguf -p p.gguf --json '7 cats, one more?'", 0,
        "\"head\":\"menu\",\"programs\":[{\"program\":\"0-1 2x0 3\"");
    CHECK(strstr(output, "\"strip\":\"##.#\",\"path\":[0,1,3]") && strstr(output, "\"menu\":[0."));
    RUN_ON("7 cats, one more?\n", "polar predict -m model.gguf -p p.gguf --head programs -k 3 -", 0,
        "proposed programs");
    RUN("polar predict -m model.gguf -p p.gguf --head none x", 2, "--head none: expected auto, menu or programs");
    RUN("polar predict -m model.gguf x", 2, "no predictor: -p FILE");
    RUN("polar predict -m model.gguf -p r.gguf --head menu x", 1, "this predictor has no menu");
}

/* What `polar run --json` prints, without the time it took. */
static const char *untimed(const char *command) {
    RUN(command, 0, ",\"seconds\"");
    if (strstr(output, ",\"seconds\"")) *strstr(output, ",\"seconds\"") = 0;
    return output;
}

TEST(answers) {
#define LONG "polar run -m model.gguf --ignore-end -n 12 --json 'Q: 7 dogs?' "
    static const char ask[] = "polar run -m model.gguf -p p.gguf -n 5 --json ";
    char line[512], expected[sizeof output], *end;
    RUN("polar run -m model.gguf --chat raw --program '2-3x2' -n 5 --json 'Q: 7 dogs, one more?'", 0, "\"text\":");
    snprintf(expected, sizeof expected, "%s", output);
    if ((end = strstr(expected, ",\"n_prompt\""))) *end = 0;
    snprintf(line, sizeof line, "%s'7 dogs, one more?'", ask);
    RUN(line, 0, expected); /* the prompt of the training, the program that was picked */
    CHECK(strstr(output, "\"program\":\"0-1 2-3x2\"") && strstr(output, "\"n_run\":1,\"n_calls_all\":6"));
    snprintf(line, sizeof line, "%s--vote --top-k 3 '7 dogs, one more?'", ask);
    RUN(line, 0, "\"n_run\":3,\"n_calls_all\":13");
    snprintf(line, sizeof line, "%s--cascade --threshold -1e9 '7 dogs, one more?'", ask);
    RUN(line, 0, "\"n_run\":1,");
    snprintf(line, sizeof line, "%s--cascade --threshold 0 '7 dogs, one more?'", ask);
    RUN(line, 0, "\"n_run\":3,");
    strcpy(expected, untimed(LONG));
    CHECK_STR(untimed(LONG "--repetition-penalty 1"), expected);
    CHECK(strcmp(untimed(LONG "--repetition-penalty 30"), expected));
    strcpy(expected, output);
    CHECK_STR(untimed(LONG "--repetition-penalty 30 --repetition-window 500"), expected);
    CHECK(strcmp(untimed(LONG "--repetition-penalty 30 --repetition-window 1"), expected));
    RUN("polar logits -m model.gguf --tokens 1,5,9 --embed last", 0, "{\"embedding\":[");
    strcpy(expected, output);
    RUN("polar logits -m model.gguf --tokens 1,5,9 --embed last --batch 1", 0, expected);
    RUN("polar logits -m model.gguf --tokens 1,5,9 --embed last --program 1x2", 0, "{\"embedding\":[");
    CHECK(strcmp(output, expected));
    RUN("polar logits -m model.gguf --tokens 1,5,9 --embed mean", 0, "{\"embedding\":[");
    CHECK(strcmp(output, expected));
    {   /* log probabilities add up, and a prompt program that is the program changes nothing */
        double all = 0, head = 0, tail = 0, looped = 0, same = 0, other = 0;
        RUN("polar logits -m model.gguf --tokens 1,5,9,7,2 --score 1 --json", 0, "\"n\":4,");
        CHECK(sscanf(output, "{\"logprob\":%lf", &all) == 1);
        RUN("polar logits -m model.gguf --tokens 1,5,9 --score 1 --json", 0, "\"n\":2,");
        CHECK(sscanf(output, "{\"logprob\":%lf", &head) == 1);
        RUN("polar logits -m model.gguf --tokens 1,5,9,7,2 --score 3 --json", 0, "\"n\":2,");
        CHECK(sscanf(output, "{\"logprob\":%lf", &tail) == 1);
        CHECK(all < 0 && fabs(all - head - tail) < 4e-6);
        RUN("polar logits -m model.gguf --tokens 1,5,9,7,2 --score 3 --json --program 1~2", 0, "");
        CHECK(sscanf(output, "{\"logprob\":%lf", &looped) == 1);
        RUN("polar logits -m model.gguf --tokens 1,5,9,7,2 --score 3 --json --program 1~2 --prompt-program 1~2", 0, "");
        CHECK(sscanf(output, "{\"logprob\":%lf", &same) == 1);
        RUN("polar logits -m model.gguf --tokens 1,5,9,7,2 --score 3 --json --prompt-program 1~2", 0, "");
        CHECK(sscanf(output, "{\"logprob\":%lf", &other) == 1);
        CHECK(same == looped && other != looped && other != tail);
        RUN("polar logits -m model.gguf --tokens 1,5 --score 2", 2, "--score 2: expected 1..1");
        RUN("polar logits -m model.gguf --tokens 1,5,99999999 --score 1", 1, "token id 99999999");
        RUN("polar logits -m model.gguf --tokens 1,-1 --score 1", 1, "token id -1");
    }
    RUN("polar logits -m model.gguf --tokens 1,5,9 --embed sum", 2, "--embed sum: expected mean or last");
    RUN("polar run -m model.gguf --repetition-penalty 0 x", 2, "expected a number above 0");
    RUN("polar run -m model.gguf --repetition-window -1 x", 2, "expected a number of tokens, or 0");
    RUN("polar run -m model.gguf -p r.gguf --cascade x", 1, "holds no threshold for cascades");
    RUN("polar run -m model.gguf --vote x", 2, "go with a predictor, -p FILE");
    RUN("polar run -m model.gguf -p p.gguf --vote --program 2x2 x", 2, "--program: one program");
    RUN("polar run -m model.gguf -p p.gguf --vote --temperature 1 x", 2, "greedy");
    RUN("polar run -m model.gguf -p p.gguf --stats -n 3 '7 dogs, one more?' >/dev/null", 0,
        "program ##22, cost 1.500, P 0.");
}

/* A question that the model has no room for: found before features are made; left out, the others decide all. */
TEST(long_questions) {
#define LENGTHY "polar train -m model.gguf lengthy.json --prompt 'Q: {question}' --width 16 --epochs 3 " \
        "--menu-epochs 12 --price 0.2 -o l.gguf "
    char line[400];
    sprintf(line, "{\"question\":\"%0300d\",\"final_valid_transitions\":[[0,1,3]]},", 0);
    insert_line("found.json", "lengthy.json", 8, line);
    RUN(LENGTHY, 1, "polar train: lengthy.json:8: the prompt has 303 tokens and the answer may have 0, the model was ");
    CHECK(!exists("l.gguf"));
    RUN(LENGTHY "--skip-long", 0,
        "polar train: lengthy.json: 1 of 161 questions are too long for the model and left out\n");
    CHECK(same_files("l.gguf", "p.gguf"));
}

/* No output takes the place of a file that is read, or of a file of another kind. */
TEST(outputs) {
    copy_file("model.gguf", "m.kept");
    copy_file("found.json", "f.kept");
    write_text("n.gguf.checkpoint", "hello");
    RUN(TRAIN "-o model.gguf", 2, "polar train: model.gguf and model.gguf are the same file");
    RUN(TRAIN "-o ./found.json", 2, "polar train: ./found.json and found.json are the same file");
    RUN(TRAIN "-o x.gguf --cache found.json", 2, "found.json and found.json are the same file");
    RUN(TRAIN "-o x.gguf --cache x.gguf", 2, "x.gguf and x.gguf are the same file");
    RUN(TRAIN "-o x.gguf --cache other.gguf", 1, "other.gguf exists and is a model, not a file of features");
    RUN(TRAIN "-o x.gguf --checkpoint p.gguf --restart", 1, "p.gguf exists and is a predictor, not the state of a tr");
    RUN(TRAIN "-o n.gguf --restart", 1, "n.gguf.checkpoint exists and is another file, not the state of a training");
    RUN(TRAIN "-o features", 1, "features exists and is a file of features, not a predictor");
    CHECK(same_files("model.gguf", "m.kept") && same_files("found.json", "f.kept"));
    CHECK(count_in("n.gguf.checkpoint", "hello") == 1);
}

/* The predictor knows which questions it was trained on. */
TEST(fingerprints) {
    RUN("polar predictor info p.gguf", 0, "questions   trained on 160, whose fingerprints are known\n");
    write_text("asked.jsonl", "{\"question\":\"0 fish?\",\"answer\":1}\n{\"question\":\" 0  cats?\",\"answer\":1}\n");
    RUN("polar eval -m model.gguf -p p.gguf asked.jsonl -n 2", 1,
        "polar eval: asked.jsonl:2: this question and 0 more of 2 are among those that p.gguf was trained on: ");
    RUN("polar eval -m model.gguf -p p.gguf asked.jsonl -n 2 --allow-overlap", 0, "2 questions; layers");
    RUN("polar eval -m model.gguf -p p.gguf asked.jsonl -n 2 --limit 1", 0, "1 questions; layers");
    CHECK(!strstr(output, "no record"));
}

/* The small model with a chat template. */
static void write_chat_model(const char *name, const char *template) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 3);
    polar_gguf *g = NULL;
    gguf_writer *w = NULL;
    polar_gguf_tensor t;
    size_t size = 0;
    const void *bytes = NULL;
    CHECK(!polar_gguf_open_memory(&g, f.data, f.size, NULL, NULL) && !gguf_writer_open(&w, NULL, NULL, NULL));
    gguf_writer_copy(w, g);
    gguf_writer_set_string(w, "tokenizer.chat_template", template, strlen(template));
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) {
        char text[64];
        snprintf(text, sizeof text, "%.*s", (int)t.name_length, t.name);
        gguf_writer_add_tensor(w, text, t.type, t.n_dims, t.dims);
    }
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) CHECK(!gguf_writer_write(w, t.data, t.bytes));
    CHECK(!gguf_writer_finish(w, NULL) && (bytes = gguf_writer_data(w, &size)) != NULL);
    write_file(name, bytes, size);
    gguf_writer_close(w);
    polar_gguf_close(g);
    free(f.data);
}

/* What a prompt is made of: an unknown template is said, raw messages have a blank line between them. */
TEST(chat) {
    static char expected[sizeof output];
    static const char said[] = "chat.gguf: the chat template is none that polar knows (chatml, llama3): messages";
    write_chat_model("chat.gguf", "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}<think>\n");
    RUN("polar run -m chat.gguf -n 1 Hi", 0, said);
    RUN("polar info chat.gguf", 0, said);
    RUN("polar run -m chat.gguf -n 1 --chat chatml Hi", 1, "the vocabulary has no token <|im_start|>");
    RUN("polar run -m model.gguf -n 1 --think on Hi", 1, "the chat format raw of this model has no thinking");
    RUN("polar predict -m model.gguf -p p.gguf --think on Hi", 1, "has no thinking to turn on");
    RUN("polar run -m model.gguf -n 1 --think off Hi", 0, "");
    RUN("polar run -m model.gguf -n 1 --think maybe Hi", 2, "--think maybe: expected on or off");
    strcpy(expected, untimed("polar run -m model.gguf -n 2 --json --system 'Be brief.' Hi"));
    CHECK_STR(untimed("polar run -m model.gguf -n 2 --json 'Be brief.\n\nHi'"), expected);
}

/* A byte order mark is no part of a text, and what is handed over is UTF-8. */
TEST(text_in_and_out) {
    char line[200], *text;
    size_t n = 0;
    write_text("bom.txt", "\xef\xbb\xbfone\n");
    write_text("plain.txt", "one\n");
    RUN("polar tokenize -m model.gguf -f plain.txt >a", 0, "");
    RUN("polar tokenize -m model.gguf -f bom.txt >b", 0, "");
    RUN("polar tokenize -m model.gguf - <bom.txt >c", 0, "");
    CHECK(same_files("a", "b") && same_files("a", "c"));
    RUN("polar run -m model.gguf -n 4 --stats -f plain.txt >/dev/null", 0, " + ");
    sprintf(line, "%.100s", output);
    line[strcspn(line, "t")] = 0; /* numbers of tokens, then of seconds */
    RUN("polar run -m model.gguf -n 4 --stats -f bom.txt >/dev/null", 0, line);
    for (int seed = 0; seed < 5; seed++) {
        sprintf(line, "polar run -m model.gguf -n 40 --ignore-end --temperature 3 --seed %d x >out.txt", seed);
        RUN(line, 0, "");
        if (!(text = read_back("out.txt", &n))) return;
        for (size_t i = 0, length; i < n; i += length) {
            length = (size_t)utf8_length(text + i, n - i);
            CHECK(length > 0);
            if (!length) length = 1;
        }
        free(text);
    }
}

TEST(bad_input) {
    RUN("polar run -m other.gguf -p p.gguf x", 1, "the predictor was trained for another model");
    RUN("polar predict -m other.gguf -p p.gguf --any-model 'x'", 0, "menu, best");
    RUN("polar predict -m model.gguf -p p.gguf --encoder other.gguf x", 2, "come from the model itself");
    RUN("polar train -m model.gguf found.json", 2, "no place for the predictor: -o FILE");
    RUN("polar train -m model.gguf found.json -o x.gguf --heads none", 2, "--heads none: expected both, programs or ");
    write_text("e.json", "{\"samples\":[]}\n");
    RUN("polar train -m model.gguf e.json -o x.gguf", 1, "e.json: no questions");
    write_text("e.json", "[{\"question\":\"a\",\"final_valid_transitions\":[[0,1,9]]}]\n");
    RUN("polar train -m model.gguf e.json -o x.gguf --prompt '{question}'",
        1, "e.json:1: path 1 executes layer 9, model.gguf has layers 0..3: it was found for another model");
    write_text("e.json",
               "[{\"question\":\"a\",\"final_valid_transitions\":[],\"final_invalid_transitions\":[[0,1]]}]\n");
    RUN("polar train -m model.gguf e.json -o x.gguf --prompt '{question}'", 1, "e.json: ");
    CHECK(strstr(output, "valid path"));
    write_text("e.json", "[{\"question\":\"a\",\"final_valid_transitions\":[[0,\"x\"]]}]\n");
    RUN("polar train -m model.gguf e.json -o x.gguf --prompt '{question}'",
        1, "e.json:1: a path is no list of layers");
    write_text("e.json",
               "{\"polar\":{\"model\":{\"n_layer\":28,\"checksum\":\"00\"}},\"samples\":[{\"question\":\"a\"}]}");
    RUN("polar train -m model.gguf e.json -o x.gguf", 1,
        "e.json was made with another model (28 layers, checksum 00)");
    RUN(TRAIN "-o x.gguf --features encoder", 2, "--encoder FILE goes with");
    RUN(TRAIN "-o /nowhere/x.gguf", 1, "/nowhere/x.gguf");
    CHECK(!exists("x.gguf"));
}

TEST(encoder) {
    RUN(TRAIN "-o e.gguf --heads menu --features encoder --encoder other.gguf --max-tokens 60", 0, "menu ");
    RUN("polar predict -m model.gguf -p e.gguf x", 1, "fixture is needed");
    RUN("polar predict -m model.gguf -p e.gguf --encoder other.gguf '7 dogs?'", 0, "##22");
}

/* --- the library and the command on the bundled model --- */

#define FILES "examples/demo/demo-"
#define DEMO "../../" FILES
#define N_ASKED 24

static char asked[N_ASKED][1024], gold[N_ASKED][STORY_ANSWER];

static void write_questions(const char *name) {
    static story s;
    FILE *f = open_there(name, "wb");
    uint64_t seed = 12;
    CHECK(f != NULL);
    for (int i = 0; i < N_ASKED; i++) {
        do story_make(&s, i % STORY_TASKS, 1 + i / 4, STORY_NORMAL, &seed);
        while (story_set_of(&s, s.n_steps) != STORY_TEST);
        story_text(&s, s.n_steps, asked[i], sizeof asked[i]);
        strcpy(gold[i], s.answer[s.n_steps]);
        if (f) fprintf(f, "%s\n", asked[i]);
    }
    if (f) fclose(f);
}

/* Asks all questions through polar_ask and through `polar run` with the words given: the same texts, the same programs,
 * the same number of them; at least `least` are right. */
static void ask_both(const polar_model *m, const polar_ask_options *options, const char *words, int least) {
    char line[2048], text[256], expected[2048], program[1024], box[320];
    int right = 0;
    for (int i = 0; i < N_ASKED; i++) {
        polar_ask_options o = *options;
        const polar_judge judge = answer_judge(asked[i], strlen(asked[i]));
        polar_picked picked;
        polar_error e;
        o.judge = &judge;
        o.picked = &picked;
        snprintf(line, sizeof line, "polar run -m " DEMO "model.gguf %s --json '%s'", words, asked[i]);
        RUN(line, 0, "");
        if (polar_ask(m, asked[i], &o, text, sizeof text, NULL, &e)) CHECK_STR(e.message, "");
        polar_program_format(&picked.candidate.program, program, sizeof program);
        snprintf(expected, sizeof expected, "{\"text\":\"%s%s\"", *text == '\\' ? "\\" : "", text); /* "\boxed" */
        if (o.predictor && !o.program)
            snprintf(expected + strlen(expected), 1200, ",\"program\":\"%s\"", program);
        if (strncmp(output, expected, strlen(expected))) {
            printf("%s, question %d: %.200s\nbut polar_ask: %s\n", words, i, output, expected);
            CHECK(0);
        }
        snprintf(expected, sizeof expected, "\"n_run\":%d,\"n_calls_all\":%d,\"votes\":%d,", picked.n_run,
                 picked.n_calls, picked.votes);
        snprintf(line, sizeof line, "\"n_prompt\":%d,\"n_generated\":%d,\"n_calls\":%d,", picked.result.n_prompt,
                 picked.result.n_generated, picked.result.n_calls);
        CHECK(strstr(output, line) != NULL);
        if (o.predictor && !o.program) CHECK(strstr(output, expected) != NULL);
        snprintf(box, sizeof box, "\\boxed{%s}", gold[i]);
        right += !strcmp(text, box);
    }
    if (right < least) printf("%s: %d of %d right\n", words, right, N_ASKED);
    CHECK(right >= least);
}

TEST(both_ways) {
    static const char *const by_predictor = "-p " DEMO "predictor.gguf";
    polar_model *m = NULL;
    polar_predictor *p = NULL;
    polar_ask_options o = {0};
    polar_error e;
    char words[200];
    write_questions("questions");
    if (polar_model_open(&m, FILES "model.gguf", NULL, &e) ||
        polar_predictor_open(&p, FILES "predictor.gguf", NULL, &e)) {
        CHECK_STR(e.message, "");
        return;
    }
    ask_both(m, &o, "", N_ASKED / 2);
    o.program = "2-5x2";
    ask_both(m, &o, "--program 2-5x2", N_ASKED / 2);
    o.predictor = p; /* whose prompt is that of the model */
    snprintf(words, sizeof words, "%s --program 2-5x2", by_predictor);
    ask_both(m, &o, words, N_ASKED / 2);
    o.program = NULL;
    ask_both(m, &o, by_predictor, N_ASKED / 2);
    o.method = POLAR_METHOD_VOTE;
    o.n_programs = 7;
    o.head = POLAR_PICK_PROGRAMS;
    snprintf(words, sizeof words, "%s --vote --top-k 7 --head programs", by_predictor);
    ask_both(m, &o, words, N_ASKED / 2);
    o.n_programs = 0;
    o.head = POLAR_PICK_AUTO;
    o.method = POLAR_METHOD_CASCADE;
    snprintf(words, sizeof words, "%s --cascade", by_predictor);
    ask_both(m, &o, words, N_ASKED / 2);
    memset(&o, 0, sizeof o); /* a prompt that the model does not know: the same answers, right or wrong */
    o.prompt.text = "Once {question}";
    o.prompt.chat = POLAR_CHAT_RAW;
    o.generate.max_tokens = 3;
    ask_both(m, &o, "--prompt 'Once {question}' --chat raw -n 3", 0);
    polar_predictor_close(p);
    polar_model_close(m);
}

static const json *item(const json *v, int i) {
    v = v ? v->child : NULL;
    for (; v && i; i--) v = v->next;
    return v;
}

/* The path of the program that a method of an evaluation chose, and its answer in a box. */
static int chosen_path(const json *header, const json *record, const char *method, int *path, char *boxed) {
    const json *m = item(json_get(header, "methods"), 0), *result = item(json_get(record, "results"), 0), *run;
    polar_program p;
    int chosen = -1;
    for (; m && result && strcmp(json_get_text(m, "name"), method); m = m->next) result = result->next;
    CHECK(m && json_int(json_get(result, "chosen"), &chosen) && chosen >= 0);
    run = item(json_get(record, "runs"), chosen);
    if (!run) return 0;
    sprintf(boxed, "\\boxed{%.40s}", json_get_text(run, "answer"));
    CHECK(!polar_program_parse(&p, 12, json_get_text(run, "program"), NULL));
    return polar_program_path(&p, path, POLAR_MAX_CALLS);
}

/* What `polar eval` says that a method chooses is what polar_ask answers by it. */
static void check_method(const polar_model *m, polar_ask_options o, const char *file, const char *method) {
    size_t n, at;
    const char *problem = "";
    char *evaluation = read_back(file, &n), text[256], boxed[64];
    json_document *d = json_read(evaluation, n, &problem, &at);
    const json *root = d ? json_root(d) : NULL, *sample = item(json_get(root, "samples"), 0);
    int path[POLAR_MAX_CALLS], expected[POLAR_MAX_CALLS], asked_of = 0;
    polar_error e;
    CHECK_STR(problem, "");
    for (int i = 0; sample && i < N_ASKED; i++, sample = sample->next, asked_of++) {
        const int length = chosen_path(json_get(root, "polar"), sample, method, path, boxed);
        const polar_judge judge = answer_judge(asked[i], strlen(asked[i]));
        polar_picked picked;
        o.judge = &judge;
        o.picked = &picked;
        if (polar_ask(m, asked[i], &o, text, sizeof text, NULL, &e)) CHECK_STR(e.message, "");
        CHECK(polar_program_path(&picked.candidate.program, expected, POLAR_MAX_CALLS) == length);
        CHECK(!memcmp(path, expected, (size_t)length * sizeof *path));
        if (o.generate.max_tokens != 3) CHECK_STR(text, boxed);
        else CHECK(picked.votes == 0 && picked.chosen == 0); /* all were cut */
    }
    CHECK(asked_of == N_ASKED);
    json_free(d);
    free(evaluation);
}

TEST(one_rule) {
#define EVALUATE "polar eval -m " DEMO "model.gguf -p " DEMO "predictor.gguf -k 7 "
    polar_model *m = NULL;
    polar_predictor *p = NULL;
    polar_ask_options o = {0};
    polar_error e;
    FILE *f = open_there("questions.jsonl", "wb");
    write_questions("questions");
    CHECK(f != NULL);
    for (int i = 0; f && i < N_ASKED; i++)
        fprintf(f, "{\"question\":\"%s\",\"answer\":\"%s\"}\n", asked[i], gold[i]);
    if (f) fclose(f);
    if (polar_model_open(&m, FILES "model.gguf", NULL, &e) ||
        polar_predictor_open(&p, FILES "predictor.gguf", NULL, &e)) {
        CHECK_STR(e.message, "");
        return;
    }
    RUN(EVALUATE "questions.jsonl -o rule.json", 0, "decoded vote@7");
    o.predictor = p;
    o.n_programs = 7;
    check_method(m, o, "rule.json", "top-1");
    o.method = POLAR_METHOD_VOTE;
    check_method(m, o, "rule.json", "vote@7");
    o.method = POLAR_METHOD_CASCADE;
    check_method(m, o, "rule.json", "cascade@7");
    o.method = POLAR_METHOD_VOTE;
    o.head = POLAR_PICK_PROGRAMS;
    check_method(m, o, "rule.json", "decoded vote@7");
    RUN(EVALUATE "questions.jsonl -n 3 -o cut.json", 0, "decoded vote@7");
    o.generate.max_tokens = 3;
    check_method(m, o, "cut.json", "decoded vote@7");
    polar_predictor_close(p);
    polar_model_close(m);
}

static void write_samples(const char *name, int n, const char *results) {
    FILE *f = open_there(name, "wb");
    CHECK(f != NULL);
    for (int i = 0; f && i < n; i++)
        fprintf(f, "{\"question\":\"%d birds?\",\"gt_ans\":\"1\",%s}\n", i, results);
    if (f) fclose(f);
}

/* Which paths the published network learns from, by their number. */
TEST(labels) {
#define LABELS "polar train -m model.gguf %s --prompt 'Q: {question}' --heads programs --width 16 --epochs 1 " \
               "--validation 0 --restart --json -o l.gguf %s"
    static const char *const runs[][3] = {{"tried", "", "\"n_examples\":20,"}, /* three executions have no form */
                                          {"tried", "--crop", "\"n_examples\":30,"},
                                          {"tried", "--shortest", "\"n_examples\":10,"},
                                          {"tried", "--shortest --crop", "\"n_examples\":10,"},
                                          {"known", "", "\"n_examples\":20,"},
                                          {"known", "--crop", "\"n_examples\":20,"}, /* two were tried, and wrong */
                                          {"loops", "--crop --shortest", "\"n_examples\":10,"}};
    write_samples("tried", 10, "\"final_valid_transitions\":[[0,1,1,1,2,3],[0,1,2,3],[0,2,3]],"
                               "\"final_invalid_transitions\":[[3]]");
    write_samples("known", 10, "\"final_valid_transitions\":[[0,1,1,1,2,3],[0,1,2,3],[0,2,3]],"
                               "\"final_invalid_transitions\":[[0,1,1,2,3]]");
    write_samples("loops", 10, "\"final_valid_transitions\":[[0,1,1,1,1,2,3],[0,1,2,1,2,1,2,3]],"
                               "\"final_invalid_transitions\":[]"); /* cropped to 5 and 6 calls */
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char command[400];
        snprintf(command, sizeof command, LABELS, runs[i][0], runs[i][1]);
        RUN(command, 0, runs[i][2]);
    }
    RUN("polar train -m model.gguf loops --prompt 'Q: {question}' --heads programs -o l.gguf", 1, "");
}

/* A network that is made to skip every layer: its first program counts as wrong and takes one of the places. */
TEST(published) {
    size_t n, at;
    const char *error;
    char *text;
    json_document *d;
    int n_records = 0, n_right = 0;
    FILE *f = open_there("choices.jsonl", "wb");
    polar_predictor *p = NULL;
    RUN("polar train -m model.gguf tried --prompt 'Q: {question}' --heads programs --width 16 --epochs 1 -o e.gguf", 0,
        "e.gguf");
    CHECK(f && !polar_predictor_open(&p, there("e.gguf"), NULL, NULL));
    if (p) {
        p->net.w.op_bias[0] = p->net.w.seg_bias[0] = 20; /* every layer is a segment, and skipped */
        CHECK(saved_file(p, there("e.gguf")));
    }
    polar_predictor_close(p);
    for (int i = 0; f && i < 12; i++)
        fprintf(f, "{\"question\":\"%d fish?\",\"options\":[\"a\",\"b\",\"c\"],\"correct\":\"%c\"}\n", i, "ABC"[i % 3]);
    if (f) fclose(f);
    RUN("polar eval -m model.gguf -p e.gguf choices.jsonl --prompt 'Q: {question}' --reward choice -k 3 --beams 4 "
        "--published -o published.json", 0, "pass@1 ");
    text = read_back("published.json", &n);
    d = text ? json_read(text, n, &error, &at) : NULL;
    for (const json *x = d ? json_get(json_root(d), "samples")->child : NULL; x; x = x->next, n_records++) {
        const json *m = json_get(json_get(json_root(d), "polar"), "methods")->child, *r = json_get(x, "results")->child;
        const json *pass = NULL, *oracle = NULL, *first = NULL, *top = NULL;
        int right;
        for (; m && r; m = m->next, r = r->next) {
            const char *name = json_get_text(m, "name");
            if (!strcmp(name, "pass@1")) first = r;
            if (!strcmp(name, "pass@3")) pass = r;
            if (!strcmp(name, "decoded top-1")) top = r;
            if (!strcmp(name, "decoded oracle@3")) oracle = r;
        }
        CHECK(pass && oracle && first && top);
        if (!pass || !oracle || !first || !top) break;
        CHECK(json_int(json_get(first, "right"), &right) && right == 0);
        CHECK(json_int(json_get(top, "right"), &right));
        n_right += right;
        CHECK(json_get(pass, "runs")->length == 2 && json_get(oracle, "runs")->length == 3);
        for (int i = 0; i < 2 && json_get(pass, "runs")->length == 2 && json_get(oracle, "runs")->length == 3; i++)
            CHECK(item(json_get(pass, "runs"), i)->number == item(json_get(oracle, "runs"), i)->number);
    }
    CHECK(n_records == 12 && n_right > 0);
    json_free(d);
    free(text);
    RUN("polar eval -m model.gguf -p e.gguf choices.jsonl --prompt 'Q: {question}' --reward choice -k 3 --beams 4 "
        "-o plain.json", 0, "decoded top-1");
    CHECK(!strstr(output, "pass@1"));
}

/* The bundled predictor holds a threshold that some answers reach and some do not; fitted anew to the evaluation of the
 * test before, in a copy. */
TEST(cascade_threshold) {
    RUN("polar predictor info " DEMO "predictor.gguf", 0, "cascade     5 programs, threshold -0.");
    copy_file(DEMO "predictor.gguf", "copy.gguf");
    RUN("polar predictor cascade copy.gguf rule.json", 0,
        "24 questions: the first program ");
    RUN("polar predictor info copy.gguf", 0, "cascade     7 programs, threshold -");
    RUN("polar predictor cascade p.gguf rule.json", 1, "rule.json: the menu is not that of p.gguf");
    RUN("polar predictor cascade copy.gguf questions.jsonl", 1, "questions.jsonl: ");
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
#define T(name) {#name, test_##name}
        T(train), T(resume), T(predict), T(answers), T(long_questions), T(outputs), T(fingerprints),
    T(chat), T(text_in_and_out), T(bad_input),
        T(encoder), T(both_ways), T(one_rule), T(cascade_threshold),
        T(labels), T(published),
    };
    write_model("model.gguf", 3);
    write_model("other.gguf", 4);
    write_found("found.json", 160);
    return test_main(tests, COUNT(tests), argc, argv);
}
