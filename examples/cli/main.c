/* The `polar` command: a table of commands. To add one, write command_NAME in a file of its own, declare it at
 * the end of cli.h and give it a row here. */
#include "cli.h"

#include <errno.h>

#if defined(POLAR_NO_SEARCH) || defined(POLAR_NO_TRAIN)
#error "the command needs the whole library: compile it without POLAR_NO_SEARCH and POLAR_NO_TRAIN"
#endif

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#include <shellapi.h>
#ifdef _MSC_VER
#pragma comment(lib, "shell32")
#endif
#endif

/* In the order in which a user meets them. */
static const cli_command commands[] = {
    {"run", "ask a model a question, under a program of layers", command_run,
     "-m FILE [options] QUESTION | -f FILE | -\n"
     "\n"
     "Writes the answer to stdout as it grows. Ctrl-C stops at the next layer.\n"
     "\n"
     "  polar run -m model.gguf \"What is 7 times 8?\"\n"
     "  polar run -m model.gguf --program \"4-7x2 12x0\" --chat raw -n 20 \"Once upon a time\"\n"
     "  polar run -m model.gguf -p predictor.gguf --stats \"What is 7 times 8?\"\n"},
    {"predict", "propose programs for a question, by a trained predictor", command_predict,
     "-m FILE -p PREDICTOR [options] QUESTION | -f FILE | -\n"
     "\n"
     "Prints programs with their probabilities, each drawn as a strip of layers, the one that polar run -p would\n"
     "take first. Only the layers that the features come from are run.\n"
     "\n"
     "  polar predict -m model.gguf -p predictor.gguf \"What is 7 times 8?\"\n"
     "  polar predict -m model.gguf -p predictor.gguf --head programs --top-k 10 --json \"What is 7 times 8?\"\n"},
    {"info", "say what a GGUF file is and what it needs to run", command_info,
     "FILE [options]\n"
     "\n"
     "Architecture, size, tensor types, vocabulary, chat format, memory for a session. A file that cannot be run\n"
     "is described too, with the reason.\n"
     "\n"
     "  polar info model.gguf --ctx 8192\n"
     "  polar info model.gguf --program \"4-7x2\" --json\n"
     "  polar info model.gguf --tensors --metadata\n"},
    {"logits", "print the logits after some tokens, to compare engines", command_logits,
     "-m FILE --tokens 1,2,3 [options]\n"
     "\n"
     "Logits of the last position; with --generate also greedy token ids.\n"
     "\n"
     "  polar logits -m model.gguf --tokens 1,403,407 --path 0,1,1,2,3,4 --generate 8 --json\n"},
    {"bench", "measure speed and memory of models", command_bench,
     "-m FILE [FILE ...] [options]\n"
     "\n"
     "Tokens per second in prefill and decode (medians), seconds to load, megabytes of the model file, of the\n"
     "session and of the process at its peak (mapped pages counted).\n"
     "\n"
     "  polar bench -m model.gguf -p 128 -n 32 --threads 2\n"
     "\n"
     "With --search it proposes the programs of a search on a made-up prompt and evaluates them together, and some\n"
     "of them one at a time: programs per second, how many times as fast, and the shares of rows computed and of\n"
     "passes over the weights. --parts says what each of the three ways to save work does. The bound: no exact way\n"
     "computes fewer rows, here at the speed of a prompt's.\n"
     "\n"
     "  polar bench --search -m model.gguf -p 150 --programs 200 --threads 2\n"
     "  polar bench --search -m model.gguf -p 150 --grow programs\n"
     "  polar bench --search --coverage test.jsonl --prior menu.json -m model.gguf   programs that searches need\n"
     "  polar bench --predict -p 150 -m model.gguf   overhead of predicting, in percent of the prefill\n"
     "  polar bench --train --threads 2              65000 paths, 10 epochs, from some steps\n"},
    {"eval", "measure what a predictor brings on questions it has not seen", command_eval,
     "-m FILE [-p FILE] QUESTIONS [-o FILE] [options] | --merge FILE ... -o FILE\n"
     "\n"
     "Runs the identity, the predictor's picks (first, vote, cascade), the baselines a sceptic asks for (best single\n"
     "program chosen on --validation, the picked edits at random places, layers of least influence skipped) and the\n"
     "oracles, which need the answer and are marked so. Nothing is taken from a label file: everything is run.\n"
     "Intervals are 95 % (Wilson; Newcombe for differences), p is the exact McNemar test against the identity.\n"
     "Two comparisons are primary, top-1 gain and top-1 save; all other p values are corrected together (Holm) and\n"
     "marked h. Interrupted, the same command goes on where it was.\n"
     "\n"
     "Below top-1 stand its nulls: the same picks of the menu dealt to other questions, at random, within the task,\n"
     "within task and length (fields task, subject or domain; steps, level or difficulty, else tokens of the prompt),\n"
     "means of 999 dealings. What top-1 answers beyond them is what the predictor knows of a question, and beyond\n"
     "its kind.\n"
     "\n"
     "What --validation chooses: gain, most right answers at no more than the identity's cost; save, least cost where\n"
     "the lower end of the 95 % interval of the difference to the identity is not below 0 (gain if there is none), as\n"
     "of hundreds of prices some cheap one keeps up with the identity by luck.\n"
     "\n"
     "  polar eval -m model.gguf -p predictor.gguf validation.jsonl --fit fit.json\n"
     "  polar eval -m model.gguf -p predictor.gguf --validation fit.json test.jsonl -o eval.json --time 50\n"
     "  polar eval -m model.gguf --program \"0-3 4-7x2\" --skip 2 test.jsonl\n"
     "  polar eval ... --shard 1/2 -o a.json; polar eval ... --shard 2/2 -o b.json\n"
     "  polar eval --merge a.json b.json -o eval.json\n"},
    {"rivals", "fit what others do in place of a predictor, for polar eval", command_rivals,
     "-m FILE FOUND.json --validation QUESTIONS -o FILE [--scan SCAN.json] [options]\n"
     "\n"
     "Early exit: the output head looks behind each layer, and the first layers alone answer once a token's\n"
     "probability is above a threshold where the answer begins. Static: layers of least influence skipped, by the\n"
     "questions of FOUND. Scan: its best blocks. Router: a small network at each layer, trained on the shortest\n"
     "valid path of FOUND's questions that skips or repeats single layers. On the validation questions all of these\n"
     "are run, and choose thresholds and programs: gain, most right answers at no more than the identity's cost;\n"
     "save, least cost of what is surely as right as the identity (both the identity where nothing is better); and\n"
     "most right answers at a cost of --cost. scan best is the scan's own: what gained most on its held-out questions and\n"
     "is confirmed there. Looks and routers count as the layer calls that need as many multiply-adds.\n"
     "\n"
     "  polar rivals -m model.gguf found.json --validation validation.jsonl --scan scan.json -o rivals.json\n"
     "  polar eval -m model.gguf -p predictor.gguf --validation fit.json --rivals rivals.json test.jsonl\n"},
    {"program", "convert programs of layers between their forms, and draw them", command_program,
     "--layers D [options] [PROGRAM]\n"
     "\n"
     "Prints a program as text, path and strip. The text form names layers or ranges of layers and how often\n"
     "each is executed: 0 skips it, and what is not named runs once.\n"
     "\n"
     "  polar program --layers 12 \"2-5x2 8-9x0\"\n"
     "  polar program --layers 4 --path 0,1,1,2\n"
     "  echo '{\"D\":4,\"path\":[0,1,1,3]}' | polar program --jsonl\n"},
    {"train", "train a predictor on what a search found", command_train,
     "-m FILE FOUND.json -o PREDICTOR.gguf [options]\n"
     "\n"
     "Trains the published network, which proposes programs, and a menu: for each of a few programs the probability\n"
     "that it answers the question. Prints the loss curve and what the menu's picks are worth on held-out\n"
     "questions. After Ctrl-C the same command goes on; results depend on the seed, not on threads.\n"
     "\n"
     "  polar train -m model.gguf found.json -o predictor.gguf\n"
     "  polar train -m model.gguf found.json -o predictor.gguf --heads menu --price 0.2 --cache features.bin\n"
     "  polar train -m model.gguf found.json -o predictor.gguf --features encoder --encoder embedding.gguf\n"},
    {"predictor", "import trained predictors, look into them, decode logits", command_predictor,
     "import IN OUT.gguf | info FILE | cascade FILE EVALUATION | decode --jsonl [FILE]\n"
     "\n"
     "import reads weights trained with the published code, safetensors or PyTorch files. cascade fits the\n"
     "threshold of a cascade to what polar eval -o wrote of validation questions, and keeps it in the file. decode\n"
     "turns logits into programs, one line of JSON for each line.\n"
     "\n"
     "  polar predictor import router.pt router.gguf\n"
     "  polar predictor cascade predictor.gguf validation.json\n"
     "  echo '{\"seg_logits\":[0,-1,2],\"op_logits\":[[0,1,0],[0,0,0],[1,0,2]]}' | polar predictor decode --jsonl\n"},
    {"search", "find programs that answer questions", command_search,
     "-m FILE QUESTIONS -o FILE [options]\n"
     "\n"
     "Tree search over programs for each question of a JSONL or JSON file (fields question, answer and those of the\n"
     "public data sets; - is stdin). What was found is written for training. An interrupted run goes on where it\n"
     "stopped when the same command is given again.\n"
     "\n"
     "  polar search -m model.gguf questions.jsonl -o found.json --simulations 100 --seed 1\n"
     "  polar search -m model.gguf questions.jsonl -o part1.json --shard 1/4\n"
     "  polar search -m model.gguf found.json --menu 32 -o menu.json\n"
     "  polar search -m model.gguf more.jsonl -o more.json --prior menu.json --first 20 --simulations 40\n"
     "  polar search -m model.gguf rows.jsonl -o found.json --rule released --level 1 --range 0:100\n"},
    {"merge", "join the outputs of a search that ran in parts", command_merge,
     "PART.json [PART.json ...] -o FILE\n"
     "\n"
     "Takes the outputs of polar search with --shard, of the same model, settings and questions, and writes the file\n"
     "that one run would have written. Supervision files of others, without a header, are joined as they are.\n"
     "\n"
     "  polar merge part1.json part2.json part3.json part4.json -o found.json\n"},
    {"scan", "measure what skipping or repeating each block of layers does", command_scan,
     "-m FILE PROBES.jsonl [MORE.jsonl ...] -o FILE [options]\n"
     "\n"
     "Runs probe questions under programs with one edit: a block of layers skipped, repeated, or executed in damped\n"
     "passes. A program's score is the mean log probability per token of the reference answers, or with\n"
     "--score accuracy the share of right ones. First come the blocks of a grid, then all around the best of them.\n"
     "\n"
     "Half of the questions of each file are held out (or --held-out names others), and the best programs are\n"
     "measured again on them: mean difference to the identity with its 95 % interval, and p. A program may raise the\n"
     "likelihood of any answer, right or wrong, by being less sure. So it must also raise the reference above the\n"
     "control, the reference of another question: p is the larger of both tests, corrected for all winners (Holm).\n"
     "Programs that none beats in score on every file and in layers are marked as Pareto. Interrupted, the same\n"
     "command goes on where it was; polar report draws heat maps of the result.\n"
     "\n"
     "  polar scan -m model.gguf probes.jsonl -o scan.json\n"
     "  polar scan -m model.gguf mathematics.jsonl logic.jsonl -o scan.json --score accuracy --grid 4 --damped 3\n"
     "  polar report scan.json -o scan.html\n"},
    {"report", "make a page of evaluations, searches and scans", command_report,
     "FILE ... -o PAGE.html\n"
     "\n"
     "Files of polar eval, search and scan, and loss curves (lines with epoch, loss, validation_loss), each a\n"
     "section of one self-contained page: tables, accuracy against cost, layers by difficulty, coverage,\n"
     "calibration, examples.\n"
     "\n"
     "  polar report eval.json found.json -o report.html\n"},
    {"grade", "compare answers with references", command_grade,
     "[options] PRED GOLD | --jsonl [FILE]\n"
     "\n"
     "Prints whether two answers say the same: equal or different. With --jsonl, one object {\"equal\",\"extracted\"}\n"
     "per line read; of a response the final answer is taken.\n"
     "\n"
     "  polar grade \"\\frac{1}{2}\" 0.5\n"
     "  polar grade --extract \"The answer is 12.\" 12\n"
     "  echo '{\"response\":\"So \\\\boxed{x=7}.\",\"gold\":\"7\"}' | polar grade --jsonl\n"},
    {"quantize", "rewrite a model with smaller weights", command_quantize,
     "IN.gguf OUT.gguf TYPE [options]\n"
     "\n"
     "Types, small to large: Q2_K, Q3_K_S Q3_K_M Q3_K_L, IQ4_XS IQ4_NL, Q4_0 Q4_1 Q4_K_S Q4_K_M,\n"
     "Q5_0 Q5_1 Q5_K_S Q5_K_M, Q6_K, Q8_0, F16 BF16, F32; Q3_K, Q4_K and Q5_K mean the _M ones. Prints the\n"
     "round-trip error: the size of what changed, relative to the size of the weights.\n"
     "\n"
     "  polar quantize model-f16.gguf model-q4.gguf Q4_K_M\n"},
    {"tokenize", "turn text into tokens and back", command_tokenize,
     "-m FILE [options] [TEXT | -f FILE | -]\n"
     "\n"
     "Prints token ids separated by commas; with --decode reads such a list and prints the text. The file needs\n"
     "no weights. Without a text, stdin is read.\n"
     "\n"
     "  polar tokenize -m model.gguf \"Hello, world!\"\n"
     "  polar tokenize -m model.gguf \"Hello, world!\" | polar tokenize -m model.gguf --decode\n"
     "  echo '{\"text\":\"Hello\"}' | polar tokenize -m model.gguf --jsonl\n"},
};

#define N_COMMANDS ((int)(sizeof commands / sizeof *commands))

static void print_help(FILE *f) {
    fprintf(f, "polar %s - run language models by program of layers\n\n"
               "usage: polar COMMAND [options]\n\n", polar_version());
    for (int i = 0; i < N_COMMANDS; i++) fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\npolar COMMAND -h says more about one; polar --version prints the version.\n");
}

static const cli_command *find_command(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS + 1] = {NULL}, *nearest;
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    nearest = cli_nearest(name, names);
    if (nearest) return cli_usage("there is no command \"%s\"; did you mean \"%s\"?", name, nearest);
    return cli_usage("there is no command \"%s\"; polar -h lists them", name);
}

static int run(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    int help = !strcmp(word, "-h") || !strcmp(word, "--help") || !strcmp(word, "help");
    cli c = {NULL, 0, NULL};
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("polar %s\n", polar_version());
        return 0;
    }
    if (help && argc > 2 && find_command(argv[2])) { /* polar help COMMAND */
        static char h[] = "-h";
        argv[1] = argv[2];
        argv[2] = h;
        word = argv[1];
    } else if (help || !*word) {
        print_help(help ? stdout : stderr);
        return help ? 0 : 2;
    }
    c.command = find_command(word);
    if (!c.command) return unknown_command(word);
    c.n_args = argc - 2;
    c.args = argv + 2;
    cli_begin(c.command->name);
    return c.command->run(&c);
}

/* A result that was not written is a failure, whatever the command thought. */
static int finish(int status) {
    cli_progress_end();
    errno = 0;
    if ((fflush(stdout) || ferror(stdout)) && status != 2)
        status = cli_fail("cannot write the output%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
    return status;
}

#ifdef _WIN32
/* Windows gives main() its arguments in an old code page. */
static char **utf8_arguments(int *argc) {
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), argc);
    char **argv = wide ? calloc((size_t)*argc + 1, sizeof *argv) : NULL;
    for (int i = 0; argv && i < *argc; i++) {
        int n = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
        if (!(argv[i] = malloc((size_t)n + 1))) return NULL;
        WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, argv[i], n, NULL, NULL);
    }
    return argv;
}
#endif

int main(int argc, char **argv) {
#ifdef _WIN32
    char **utf8 = utf8_arguments(&argc);
    if (utf8) argv = utf8;
    SetConsoleOutputCP(CP_UTF8);
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
#endif
    return finish(run(argc, argv));
}
