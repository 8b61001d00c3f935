/* The command line: options, JSON, and the binary build/polar as a user meets it (POLAR_COMMAND names another). */
#include "../examples/cli/cli.c"
#include "../examples/cli/same_file.c"
#include "../examples/cli/json.c"
#include "test.h"
#include "command.h"

#include <math.h>

/* --- JSON --------------------------------------------------------------------------------------------- */

static const char *json_error(const char *text) {
    const char *error = "";
    size_t at;
    json_document *d = json_read(text, strlen(text), &error, &at);
    json_free(d);
    return d ? "" : error;
}

TEST(json_grammar) {
    static const char *const good[] = {"{}", " [ ] ", "null", "-0.5e+3", "\"\"", "[1,[2,{\"a\":[]}],\"\\u0000\"]",
                                       "\xef\xbb\xbf{\"a\":1}", "\"\\ud83d\\ude00\"", "1E5",
                                       "[NaN,Infinity,-Infinity]"};
    static const char *const bad[] = {"", " ", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "+1",
                                      "1e", "-", "nul", "truee", "\"", "\"\\x\"", "\"\\u12g4\"", "\"a\nb\"",
                                      "[1 2]", "{} {}", "nan", "-NaN", "+Infinity", "\"\\", "[\"a", "'a'", "\"\\u",
                                      "1e+"};
    char deep[1000];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CHECK_STR(json_error(good[i]), "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(json_error(bad[i])[0] != 0);
    memset(deep, '[', sizeof deep);
    deep[sizeof deep - 1] = 0;
    CHECK_STR(json_error(deep), "nested too deeply");
    CHECK_STR(json_error("{\"a\":1 \"b\"}"), "',' or '}' is expected");
}

TEST(json_values) {
    static const char text[] = "{\"s\":\"a\\u00e9\\ud83d\\ude00\\n\\ud83dx\",\"n\":-12,\"u\":18446744073709551615,"
                               "\"f\":0.1,\"p\":[0,1,1],\"q\":[0,1.5],\"big\":1e300,\"n\":3}";
    const char *error;
    size_t at, n;
    json_document *d = json_read(text, sizeof text - 1, &error, &at);
    const json *root;
    int32_t *p;
    int i;
    uint64_t u;
    CHECK(d != NULL);
    if (!d) return;
    root = json_root(d);
    CHECK(root->length == 8);
    CHECK_STR(json_get_text(root, "s"), "a\xc3\xa9\xf0\x9f\x98\x80\n\xef\xbf\xbdx");
    CHECK(json_int(json_get(root, "n"), &i) && i == -12); /* the first of two */
    CHECK(json_u64(json_get(root, "u"), &u) && u == UINT64_MAX);
    CHECK(!json_u64(json_get(root, "n"), &u));
    CHECK(!json_int(json_get(root, "f"), &i) && !json_int(json_get(root, "big"), &i));
    CHECK(json_get(root, "f")->number == 0.1 && !json_get(root, "none") && !json_get_text(root, "n"));
    CHECK((p = json_ints(json_get(root, "p"), &n)) && n == 3 && p[0] == 0 && p[2] == 1);
    free(p);
    CHECK(!json_ints(json_get(root, "q"), &n) && !json_ints(NULL, &n));
    json_free(d);
}

TEST(json_writing) {
    static const struct {
        double x;
        const char *text;
    } numbers[] = {{0, "0"}, {0.1, "0.1"}, {-1.5, "-1.5"}, {1e300, "1e+300"}, {1.0 / 3, "0.3333333333333333"},
                   {5e-324, "5e-324"}, {HUGE_VAL, "null"}, {123456789, "123456789"}};
    char line[256];
    FILE *f = tmpfile();
    float third = 1.0f / 3;
    int ints[] = {1, -2};
    CHECK(f != NULL);
    if (!f) return;
    json_put_string(f, "a\"\\\n\1\xff\xc3\xa9\xed\xa0\x80", 11);
    fputc('\n', f);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        json_put_double(f, numbers[i].x);
        fputc('\n', f);
    }
    json_put_float(f, third);
    json_put_ints(f, ints, 2);
    rewind(f);
    CHECK(fgets(line, sizeof line, f) != NULL);
    CHECK_STR(line, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"\n");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        CHECK(fgets(line, sizeof line, f) != NULL);
        line[strcspn(line, "\n")] = 0;
        CHECK_STR(line, numbers[i].text);
    }
    CHECK(fgets(line, sizeof line, f) != NULL);
    CHECK_STR(line, "0.33333334[1,-2]");
    fclose(f);
}

/* --- options ------------------------------------------------------------------------------------------ */

TEST(numbers) {
    int i;
    uint64_t u;
    double d;
    CHECK(read_int("-2147483647", &i) && i == -2147483647 && read_int("0x10", &i) && i == 16);
    CHECK(!read_int("2147483648", &i) && !read_int("", &i) && !read_int("-", &i));
    CHECK(!read_int("1 ", &i) && !read_int("x", &i));
    CHECK(read_u64("18446744073709551615", &u) && u == UINT64_MAX && !read_u64("18446744073709551616", &u));
    CHECK(read_u64("0xFfffffffffffffff", &u) && u == UINT64_MAX && !read_u64("0x", &u) && !read_u64("-1", &u));
    CHECK(read_double("1e-3", &d) && d == 1e-3);
    CHECK(!read_double("nan", &d) && !read_double("1,5", &d) && !read_double("", &d));
}

TEST(option_reader) {
    char words[][16] = {"one", "--name=x", "-n", "7", "--flag", "-", "--list", "a", "--list=b", "--", "--flag", "-n"};
    char *args[12];
    const char *name = NULL;
    int number = 0, flag = 0;
    float f = 0;
    cli_list list = {{NULL}, 0};
    const cli_command command = {"test", "", NULL, ""};
    const cli_option options[] = {
        {"name", 0, CLI_TEXT, &name, "TEXT", ""},
        {"number", 'n', CLI_INT, &number, "N", ""},
        {"flag", 0, CLI_FLAG, &flag, NULL, ""},
        {"list", 0, CLI_LIST, &list, "X", ""},
        {"float", 0, CLI_FLOAT, &f, "X", ""},
        {0}
    };
    cli c = {NULL, 12, NULL};
    c.command = &command;
    c.args = args;
    for (int i = 0; i < 12; i++) args[i] = words[i];
    CHECK(cli_read(&c, options, 0, -1) == -1);
    CHECK_STR(name, "x");
    CHECK(number == 7 && flag == 1 && list.n == 2 && c.n_args == 4);
    CHECK_STR(list.items[1], "b");
    CHECK_STR(c.args[0], "one");
    CHECK_STR(c.args[1], "-");
    CHECK_STR(c.args[2], "--flag");
    CHECK_STR(c.args[3], "-n");
}

TEST(nearest) {
    static const char *const names[] = {"temperature", "top-k", "top-p", "seed", NULL};
    CHECK_STR(cli_nearest("temp", names), "temperature");
    CHECK_STR(cli_nearest("temprature", names), "temperature");
    CHECK_STR(cli_nearest("sede", names), "seed");
    CHECK_STR(cli_nearest("topk", names), "top-k");
    CHECK(cli_nearest("verbose", names) == NULL && cli_nearest("", names) == NULL);
    CHECK(cli_nearest("averyveryveryveryveryveryverylongoption", names) == NULL);
}

/* --- the binary --------------------------------------------------------------------------------------- */

TEST(commands) {
    RUN("polar", 2, "usage: polar COMMAND");
    RUN("polar --help", 0, "polar COMMAND -h says more");
    RUN("polar --version", 0, "polar " POLAR_VERSION "\n");
    RUN("polar porgram", 2, "polar: there is no command \"porgram\"; did you mean \"program\"?\n");
    RUN("polar help program", 0, "usage: polar program --layers D");
    RUN("polar program -h", 0, "-l, --layers D");
    RUN("polar program --lyers 4", 2, "polar program: unknown option --lyers; did you mean --layers?\n");
    RUN("polar program --layers x", 2, "polar program: --layers: \"x\" is not a whole number\n");
    RUN("polar program --layers", 2, "polar program: --layers needs a value: D\n");
    RUN("polar program --json=1", 2, "polar program: --json takes no value\n");
    RUN("polar program a b", 2, "\"b\" is one argument too many");
    if (cli_fopen("/dev/full", "w"))
        RUN("polar program -l 4 >/dev/full", 1, 
            INTERRUPTS ? "polar program: cannot write the output: No space left" : "cannot write the output");
}

TEST(program) {
    RUN("polar program '2-5x2 8-9x0' --layers=12", 0,
        "text   0-1 2-5x2 6-7 8-9x0 10-11\npath   0,1,2,3,4,5,2,3,4,5,6,7,10,11\nstrip  ##2222##..##\n"
        "calls  14 of 12 layers, cost 1.167\n");
    RUN("polar program --layers 4 --path 0,1,1,2", 0, "text   0 1x2 2 3x0\n");
    RUN("polar program --layers 4 --path 0,2,1", 1, "polar program: the path has no segment form");
    RUN("polar program --layers 4 '0-9'", 1, "polar program: program: a number in column 3 is larger than 3\n");
    RUN("polar program", 2, "polar program: --layers must say how many layers");
    RUN_ON("\n{\"D\":4,\"path\":[0,1,1,3]}\r\n{\"D\":2,\"path\":[1,0]}", "polar program --jsonl -", 0,
        "{\"ok\":true,\"segments\":[[0,1,1],[1,1,2],[2,1,0],[3,1,1]],\"text\":\"0 1x2 2x0 3\","
        "\"path\":[0,1,1,3],\"seg_flip\":[0,1,1,1],\"op\":[1,2,0,1]}\n{\"ok\":false,\"error\":\"");
    RUN_ON("{\"D\":4,\"path\":[0]}\n\n{\"D\":4}\n", "polar program --jsonl", 1,
        "polar program: stdin:3: field \"path\" must be a list of layers\n");
    RUN_ON("{\"D\":4\n", "polar program --jsonl", 1, "polar program: stdin:1: not JSON: ',' or '}' is expected");
    RUN("polar program --jsonl /nowhere", 1, "polar program: cannot open /nowhere: No such file");
    RUN("polar program --jsonl /", 1, " /: " DIRECTORY);
}

TEST(grade) {
    RUN("polar grade '\\frac{1}{2}' 0.5", 0, "equal\n");
    RUN("polar grade --sets 1,2 2,1", 0, "equal\n");
    RUN("polar grade -- -3 3", 0, "different\n");
    RUN("polar grade -1 -1", 0, "equal\n");
    RUN("polar grade -.5 '-\\frac{1}{2}'", 0, "equal\n");
    RUN("polar grade -h", 0, "    --                     what follows is no option\n");
    RUN("polar grade '7 km' '7000 m'", 0, "equal\n");
    RUN_ON("{\"pred\":null,\"gold\":\"1\"}\n{\"response\":null,\"gold\":\"1\"}\n{\"pred\":\"1\",\"gold\":\"1\"}\n",
        "polar grade --jsonl", 0,
        "{\"equal\":false,\"extracted\":\"\"}\n{\"equal\":false,\"extracted\":\"\"}\n{\"equal\":true");
    RUN("polar grade -e 'The answer is 12.' 12", 0, "equal\n");
    RUN("polar grade 1", 2, "polar grade: give an answer and a reference, or --jsonl\n");
    RUN_ON("{\"response\":\"So \\\\boxed{x=7}\",\"gold\":7}\n{\"pred\":\"1,2\",\"gold\":\"2,1\",\"sets\":true}",
        "polar grade --jsonl", 0,
        "{\"equal\":true,\"extracted\":\"x=7\"}\n{\"equal\":true,\"extracted\":\"1,2\"}\n");
    RUN_ON("{\"response\":\"A: 18\",\"answer\":\"so #### 18\"}\n", "polar grade --jsonl", 0, "{\"equal\":true");
    RUN_ON("{\"pred\":\"1\"}\n", "polar grade --jsonl", 1, "polar grade: stdin:1: no field \"gold\"\n");
    RUN_ON("{\"gold\":\"1\"}\n", "polar grade --jsonl -", 1,
        "polar grade: stdin:1: no field \"pred\" or \"response\"\n");
}

TEST(info) {
    /* a header and general.name = "x\033": a file that is none of a model, and a string that a terminal obeys */
    static const char make[] = "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\14\0\0\0\0\0\0\0"
                               "general.name\10\0\0\0\2\0\0\0\0\0\0\0x\033";
    size_t n;
    char *model;
    write_file("x.gguf", make, sizeof make - 1);
    RUN("polar info x.gguf --metadata", 0, "name          x?\ntensors       none\nruns          no: x.gguf: the key ");
    RUN("polar info x.gguf --metadata", 0, "\n\ngeneral.name = \"x\\u001b\"\n");
    RUN("polar info -m ./x.gguf --json --tensors --metadata", 0,
        "{\"file\":\"./x.gguf\",\"name\":\"x\\u001b\",\"n_params\":0,\"weight_bytes\":0,"
        "\"n_tensors\":0,\"types\":{},\"runs\":false,\"reason\":\"x.gguf: the key ");
    RUN("polar info --json --tensors --metadata x.gguf", 0,
        "\"metadata\":{\"general.name\":\"x\\u001b\"},\"tensors\":[]}\n");
    RUN("polar info", 2, "polar info: no file: polar info FILE\n");
    RUN("polar info /nowhere.gguf", 1, "polar info: /nowhere.gguf: No such file");
    RUN("polar info /", 1, "polar info: /: " DIRECTORY);
    RUN("polar info /dev/null", 1, ": has 0 bytes, a GGUF file at least 24\n");
    if (!(model = test_shared_text("oracle/model_qwen2moe.gguf", &n))) return;
    write_file("moe.gguf", model, n);
    free(model);
    RUN("polar info moe.gguf", 0,
        "parameters    513.3 k in 2.1 MB, 32.00 bits each\ntensors       105: 105 F32 (2.1 MB)\n"
        "layers        6 of width 64, feed-forward 128\nheads         4 of size 16, 4 for keys and values\n"
        "experts       8, 2 used per token\ncontext       256 tokens, rope base 1000000\n"
        "vocabulary    320 tokens, qwen2; bos ");
    RUN("polar info moe.gguf --ctx 64 --program '0x2 3x0'", 0,
        "session       64 tokens, 6 layer calls: ");
    RUN("polar info moe.gguf --program 9", 1,
        "polar info: program: ");
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(json_grammar), T(json_values), T(json_writing), T(numbers), T(option_reader), T(nearest), T(commands),
    T(program), T(grade), T(info),
};

int main(int argc, char **argv) {
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
}
