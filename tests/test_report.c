/* polar report on searches: the numbers of its charts, from a file that is small enough to count by hand; trees; and
 * that no label meets another, whatever the sizes of the data. Pages of evaluations are also tested in test_eval_cli,
 * of scans in test_scan_cli. */
#include "inside.h"
#include "test.h"
#include "command.h"
#include "page.h"

#define HEADER "{\"polar\":{\"model\":{\"name\":\"<m>\",\"n_layer\":4},\"settings\":{\"one_seed\":1}},\n\"samples\":["
#define QUESTION(task, valid, invalid) "{\"question\":\"q\",\"gt_ans\":\"1\",\"sample_info\":{\"task\":\"" task "\"}," \
    "\"final_valid_transitions\":[" valid "],\"final_invalid_transitions\":[" invalid "]"
#define ID "[0,1,2,3]"

/* Six questions: one that the identity answers; four that it does not, where a skip or a loop, a skip and a loop
 * together, a loop, a skip is needed; and one that nothing answers. */
static void write_counted(void) {
    write_text("counted.json", HEADER
               QUESTION("a", ID ",[0,1,3],[0,1,2,2,3]", "[0,3]") "},\n"
               QUESTION("a", "[0,1,3],[0,1,2,2,3]", ID ",[0,3]")
               ",\"search_trajectory\":[{\"path\":" ID ",\"parent_path\":null,\"reward\":0,\"simulation\":0},"
               "{\"path\":[0,1,3],\"parent_path\":" ID ",\"reward\":1,\"simulation\":1,\"answer\":\"<b>1\"},"
               "{\"path\":[0,3],\"parent_path\":[0,1,3],\"reward\":0,\"simulation\":2,\"answer\":\"2\"},"
               "{\"path\":[0,1,2,2,3],\"parent_path\":" ID ",\"reward\":1,\"simulation\":3,\"answer\":\"1\"},"
               "{\"path\":[0,0,1,2,3],\"parent_path\":null,\"reward\":1,\"simulation\":-1}]},\n"
               QUESTION("b", "[0,0,1,3]", ID ",[0,1,3]") "},\n"
               QUESTION("b", "", ID ",[0,1,3]") "},\n"
               QUESTION("b", "[0,1,2,2,2,3]", ID ",[0,3]") "},\n"
               QUESTION("a", "[0,3]", ID ",[0,1,2,2,3]") "}\n]}\n");
}

static void check_texts(const char *page, const char *const *texts, int n) {
    for (int i = 0; i < n; i++) {
        CHECK(count_in(page, texts[i]) >= 1);
        if (!count_in(page, texts[i])) printf("%s: there is no \"%s\"\n", page, texts[i]);
    }
}

/* Whether the row of a table that begins so counts n of all questions. */
static int row_counts(const char *page, const char *begin, int n, int all) {
    char text[40];
    size_t size = 0;
    char *html = read_back(page, &size);
    const char *row = html ? strstr(html, begin) : NULL, *end = row ? strstr(row, "</tr>") : NULL, *at;
    int ok;
    snprintf(text, sizeof text, "<td>%d</td><td>%.1f&nbsp;%%</td>", n, 100.0 * n / all);
    at = row ? strstr(row, text) : NULL;
    ok = at && at < end;
    if (!ok) printf("%s: %s: no %s\n", page, begin, text);
    free(html);
    return ok;
}

/* Dealings lie around what is expected of them: of the 15 pairs of the first row 7.33 agree by chance. */
static void check_dealings(const char *page) {
    size_t n = 0;
    char *html = read_back(page, &n);
    const char *row = html ? strstr(html, ">all</td><td>15</td>") : NULL;
    double agree = 0, chance = 0, low = 0, high = 0;
    CHECK(row && sscanf(row, ">all</td><td>15</td><td>%lf %%</td><td>%lf %%</td><td>%lf&ndash;%lf", &agree, &chance,
                        &low, &high) == 4);
    CHECK(low < chance && chance < high && low >= 20 && high <= 80);
    free(html);
}

/* Each number was counted by hand. */
TEST(counted) {
    static const char *const texts[] = {
        "6 questions, 3 programs tried on each. All 4 layers once answer <b>16.7&nbsp;%</b>; for "
        "<b>83.3&nbsp;%</b> some program was found that does, for <b>80.0&nbsp;%</b> of those",
        "The shortest valid program has 3.6 layers on average",
        "Of 7 valid programs other than the identity 71.4&nbsp;% correct an answer, 14.3&nbsp;% only shorten",
        /* accuracy by depth budget */
        "<title>any program, at most 2 layers: 16.7 % (1)</title>", "<title>any program, at most 3 layers: 50.0 % (3)",
        "<title>any program, at most 4 layers: 66.7 % (4)</title>", "<title>any program, at most 6 layers: 83.3 % (5)",
        "<title>only skips, at most 2 layers: 16.7 % (1)</title>", "<title>only skips, at most 3 layers: 50.0 % (3)",
        "<title>only repeats, at most 4 layers: 16.7 % (1)</title>", "<title>only repeats, at most 5 layers: 33.3 % "
        "(2)",
        "<title>only repeats, at most 6 layers: 50.0 % (3)</title>", "<title>identity, 4 layers: 16.7 % (1)</title>",
        /* shortest valid programs */
        "<title>2 layers, identity wrong: 1<", "<title>3 layers, identity right: 1<", "<title>3 layers, identity "
        "wrong: 1<",
        "<title>4 layers, identity wrong: 1<", "<title>6 layers, identity wrong: 1<",
        "a skip on 2 questions (33.3&nbsp;%), a loop on 2 (33.3&nbsp;%), either or both on 4 (66.7&nbsp;%)",
        /* layers of shortest valid programs, and of all */
        "<title>layer 1, skipped: 1 of 5<", "<title>layer 2, skipped: 4 of 5<", "<title>layer 0, skipped: 0 of 5<",
        "<title>layer 0, repeated: 1 of 5<", "<title>layer 2, repeated: 1 of 5<", "<title>layer 2, skip valid: 4 of 9<",
        "<title>layer 1, skip valid: 1 of 4<", "<title>layer 0, loop valid: 1 of 1<", "<title>layer 2, loop valid: "
        "3 of 4<",
        "Lengths of the 8 segments", "<title>1 layers skipped: 3<", "<title>2 layers skipped: 1<",
        "<title>1 layers repeated: 4<",
        /* edits undone: of the program that needs both, without the skip was not tried */
        "identity wrong: skips</td><td>3</td><td>2</td><td>2</td><td>0.0 %<",
        "identity wrong: repeats</td><td>3</td><td>3</td><td>3</td><td>0.0 %<",
        "identity right: skips</td><td>1</td><td>1</td><td>0</td><td>100.0 %<",
        "identity right: repeats</td><td>1</td><td>1</td><td>0</td><td>100.0 %<",
        /* cover: the first answers two questions, then one each */
        "<title>1 programs: 33.3 % (2)<", "<title>2 programs: 50.0 % (3)<", "<title>3 programs: 66.7 % (4)<",
        "<title>4 programs: 83.3 % (5)<", "<td>3</td><td>2</td><td>4</td>", "of 6 different programs",
        /* agreement: 6 of 15 pairs; expected (6 - 5/9 + 3 + 1/9 + 6 + 1/9) / 2 */
        "all</td><td>15</td><td>40.0 %</td><td>48.9 %</td>", "same task</td><td>8</td><td>50.0 %</td><td>52.1 %</td>",
        "other task</td><td>7</td><td>28.6 %</td><td>45.2 %</td>", "All questions had the same seed",
        "<td class=\"l\">a</td><td>3</td><td>33.3 %</td><td>100.0 %</td>",
        "<td class=\"l\">b</td><td>3</td><td>0.0 %</td><td>66.7 %</td>"};
    static const char *const rows[] = {"right, and shorter with a program</td>", "right, nothing shorter found</td>",
                                       "corrected with fewer layers</td>", "corrected with as many layers</td>",
                                       "corrected with more layers only</td>", "wrong with all programs tried</td>",
                                       "nothing: the identity is right</td>", "a skip or a loop, either will do</td>",
                                       ">a skip</td>", ">a loop</td>", "both in one program</td>",
                                       "more: no program tried is right</td>"};
    static const int counts[] = {1, 0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    write_counted();
    RUN("polar report counted.json -o counted.html", 0, "");
    check_page("counted.html");
    check_texts("counted.html", texts, COUNT(texts));
    for (int i = 0; i < COUNT(rows); i++) CHECK(row_counts("counted.html", rows[i], counts[i], 6));
    RUN("polar report counted.json -o again.html", 0, "");
    CHECK(same_files("counted.html", "again.html"));
    check_dealings("counted.html");
    replace_text("counted.json", "seeds.json", "\"one_seed\":1", "\"one_seed\":0");
    RUN("polar report seeds.json -o seeds.html", 0, "");
    CHECK(count_in("seeds.html", "same seed") == 0);
    /* the identity's result stands elsewhere in files of other programs; a program that is out of order has no
     * segments, and is not the identity */
    write_text("other.json", "[{\"initial_score\":1,\"final_valid_transitions\":[[0,2,1,3]],"
                             "\"final_invalid_transitions\":[[0,1,3]]},"
                             "{\"initial_score\":0.0,\"final_valid_transitions\":[[0,2,1,3]]}]");
    RUN("polar report other.json -o other.html", 0, "");
    check_page("other.html");
    CHECK(count_in("other.html", "All 4 layers once answer <b>50.0&nbsp;%</b>") == 1);
    CHECK(count_in("other.html", "2 of 2 valid programs have no segments") == 1);
    CHECK(row_counts("other.html", "right, nothing shorter found</td>", 1, 2));
    CHECK(row_counts("other.html", "both in one program</td>", 1, 2));
    CHECK(count_in("other.html", "One search") == 0);
    RUN("polar merge other.json -o merged.json", 0, "identity          0.0 %");
}

/* The same picture at three times: how many programs ran, how often each was visited. */
TEST(tree) {
    static const char *const texts[] = {
        "1 simulation: 2 programs run, 1 valid.", "2 simulations: 3 programs run, 1 valid.",
        "3 simulations: 4 programs run, 2 valid.", "&#10003; &lt;b&gt;1</b>", "<small>from 1</small>"};
    write_counted();
    RUN("polar report counted.json -o tree.html", 0, "");
    check_texts("tree.html", texts, COUNT(texts));
    CHECK(count_in("tree.html", "<title>visits: 1<") == 4 && count_in("tree.html", "<title>visits: 2<") == 2);
    CHECK(count_in("tree.html", "<li><small") == 4); /* what ran behind the search is no step of it */
    /* the log of all simulations: the first ran its node, the second nothing, the third what was passed before */
    replace_text("counted.json", "log.json", "\"search_trajectory\":",
                 "\"search_nodes\":[[-1,[0,1,2,3]],[0,[0,1,3]],[1,[0,3]]],"
                 "\"search_simulations\":[[2,0,1],[1,0,0],[1,1,1]],\"search_trajectory\":");
    RUN("polar report log.json -o log.html", 0, "");
    check_page("log.html");
    CHECK(count_in("log.html", "1 simulation: 2 programs run, 0 valid.") == 1);
    CHECK(count_in("log.html", "2 simulations: 2 programs run, 0 valid.") == 1);
    CHECK(count_in("log.html", "3 simulations: 3 programs run, 1 valid.") == 1);
    CHECK(count_in("log.html", "<title>visits: 1<") == 4 && count_in("log.html", "<title>visits: 2<") == 1 &&
          count_in("log.html", "<title>visits: 3<") == 1);
    /* programs tried before those of the tree hang on the identity */
    replace_text("counted.json", "first.json", "{\"path\":[0,3],\"parent_path\":[0,1,3]",
                 "{\"path\":[0,3],\"parent_path\":null");
    RUN("polar report first.json -o first.html", 0, "");
    check_texts("first.html", texts, 3);
    CHECK(count_in("first.html", "<title>visits: 1<") == 6 && count_in("first.html", "<title>visits: 2<") == 0);
    RUN("polar report counted.json --question 1 -o one.html", 0, "");
    CHECK(same_files("one.html", "tree.html"));
    RUN("polar report counted.json --question 0 -o x.html", 1,
        "counted.json: question 0 has no \"search_trajectory\" to draw");
    RUN("polar report counted.json --question 6 -o x.html", 1,
        "--question 6: counted.json has 6 questions, 0 is the first");
    CHECK(!exists("x.html"));
}

TEST(damaged) {
    static const char *const changes[][3] = {
        {"[0,3]", "[0,4]", "sample 1: a path is no list of layers below 4"},
        {"[0,3]", "[0,-1]", "sample 1: a path is no list of layers"},
        {"[0,3]", "\"9x2\"", "sample 1: a path is no list of layers"},
        {"\"samples\":[", "\"samples\":[{\"x\":1", "not JSON"}};
    static const char *const logs[] = {"[[0,[0,1,2,3]]]", "[[-1,[0,1,2,3]],[1,[0,3]]]",
    "[[-1,[0,1,2,3]],[-1,[0,3]]]", "[]",
                                       "[[-1]]"};
    write_counted();
    for (int i = 0; i < COUNT(changes); i++) {
        replace_text("counted.json", "broken.json", changes[i][0], changes[i][1]);
        RUN("polar report broken.json -o x.html", 1, changes[i][2]);
    }
    for (int i = 0; i <= COUNT(logs); i++) {
        char text[200];
        snprintf(text, sizeof text, "\"search_nodes\":%s,\"search_simulations\":[[%d,0,1]],\"search_trajectory\":",
                 i < COUNT(logs) ? logs[i] : "[[-1,[0,1,2,3]]]", i < COUNT(logs) ? 0 : 1);
        replace_text("counted.json", "broken.json", "\"search_trajectory\":", text);
        RUN("polar report broken.json -o x.html", 1, "broken.json: question 1: the log of its search is broken");
    }
    CHECK(!exists("x.html"));
}

/* --- labels ---------------------------------------------------------------------------------------------------- */

static uint64_t rng = 1;

static int below(int n) {
    return (int)(rng_next(&rng) % (uint64_t)n);
}

/* Words and numbers of all lengths, also such as escape or take three bytes. */
static const char *some_word(void) {
    static const char *const words[] = {"a", "long and longer words", "<&>'\\\"", "1", "2", "123456789", "level 5",
                                        ("\xe5\x95\x8f\xe9\xa1\x8c\xe3\x81\xae\xe7\xa8\xae\xe9\xa1\x9e"),
                                        "WWWWWWWWWWWWWWW", "\xc3\xa4\xc3\xb6\xc3\xbc"};
    return words[below(COUNT(words))];
}

/* A path with random skips and repeats: of blocks, so that it has segments. */
static void put_path(FILE *f, int n_layer) {
    int n = 0;
    fputc('[', f);
    for (int i = 0; i < n_layer;) {
        const int kind = below(n_layer > 12 ? 12 : 4), length = 1 + below(4);
        const int times = kind == 0 ? 0 : kind == 1 ? 2 + below(3) : 1;
        for (int k = 0; k < times; k++)
            for (int j = i; j < i + length && j < n_layer; j++) fprintf(f, n++ ? ",%d" : "%d", j);
        i += length;
    }
    fprintf(f, n ? "]" : "0]");
}

static void write_search(const char *name, int n_layer, int n_questions, int n_programs) {
    FILE *f = open_there(name, "wb");
    fprintf(f, "{\"polar\":{\"model\":{\"n_layer\":%d}},\"samples\":[", n_layer);
    for (int i = 0; i < n_questions; i++) {
        fprintf(f, "%s{\"question\":\"%s\",\"gt_ans\":\"%s\",\"task\":\"%s\",\"level\":%d", i ? ",\n" : "", some_word(),
                some_word(), some_word(), below(9));
        for (int valid = 0; valid < 2; valid++) {
            fprintf(f, ",\"final_%s_transitions\":[", valid ? "valid" : "invalid");
            for (int k = 0, n = below(n_programs + 1); k < n; k++) {
                if (k) fputc(',', f);
                put_path(f, n_layer);
            }
            fputc(']', f);
        }
        fprintf(f, ",\"search_trajectory\":[");
        for (int k = 0; k < n_programs; k++) {
            fprintf(f, k ? ",{\"path\":" : "{\"path\":");
            put_path(f, n_layer);
            fprintf(f, ",\"parent_path\":");
            put_path(f, n_layer);
            fprintf(f, ",\"reward\":%d,\"answer\":\"%s\"}", below(2), some_word());
        }
        fprintf(f, "]}");
    }
    fprintf(f, "]}\n");
    fclose(f);
}

static void write_scan(const char *name, int n_layer) {
    FILE *f = open_there(name, "wb");
    fprintf(f, "{\"polar\":{\"kind\":\"scan\",\"model\":{\"n_layer\":%d},\"probes\":[{\"name\":\"%s\"}],"
            "\"settings\":{\"score\":\"accuracy\"}},\"samples\":[{\"program\":\"identity\",\"operation\":\"identity\","
            "\"layers\":%d,\"score\":[0.5],\"control\":[0.1]}", n_layer, some_word(), n_layer);
    for (int i = 0; i < 20; i++) {
        const int start = below(n_layer), end = start + below(n_layer - start);
        fprintf(f,
                ",\n{\"program\":\"%d-%dx2\",\"operation\":\"x2\",\"start\":%d,\"end\":%d,\"layers\":%d,"
                "\"score\":[%.2f],"
                "\"control\":[0.2]}", start, end, start, end, n_layer + end - start + 1, below(100) / 100.0);
    }
    fprintf(f, "]}\n");
    fclose(f);
}

/* Methods of costs from a tenth to a hundred, many of them alike, so that their numbers have to make room. */
static void write_evaluation(const char *name, int n_layer, int n_methods, int n_questions) {
    FILE *f = open_there(name, "wb");
    fprintf(f, "{\"polar\":{\"kind\":\"eval\",\"model\":{\"n_layer\":%d},\"questions\":{\"file\":\"%s\"},\"menu\":[],"
            "\"points\":[],\"methods\":[", n_layer, some_word());
    for (int i = 0; i < n_methods; i++)
        fprintf(f, "%s{\"name\":\"%s%d\",\"needs_answer\":%d}", i ? "," : "", i ? some_word() : "identity", i,
                i % 3 == 2);
    fprintf(f, "]},\"samples\":[");
    for (int i = 0; i < n_questions; i++) {
        fprintf(f,
                "%s{\"index\":%d,\"n_prompt\":9,\"sample_info\":{\"task\":\"%s\",\"steps\":%d},"
                "\"runs\":[{\"program\":\"\","
                "\"calls\":%d,\"right\":1,\"tokens\":2}],\"results\":[", i ? ",\n" : "", i, some_word(), below(30),
                n_layer);
        for (int k = 0; k < n_methods; k++)
            fprintf(f, "%s{\"chosen\":0,\"right\":%d,\"calls\":%d,\"positions\":10}", k ? "," : "", below(k + 2) > 0,
                    k % 2 ? 1 + below(n_layer * 1000) : n_layer * 10);
        fprintf(f, "]}");
    }
    fprintf(f, "]}\n");
    fclose(f);
}

TEST(labels) {
    static const int layers[] = {1, 2, 3, 5, 12, 24, 36, 48, 100, 256};
    for (int i = 0; i < COUNT(layers); i++) {
        const int n = layers[i];
        FILE *f = open_there("curve.jsonl", "wb");
        write_search("s.json", n, 1 + below(30), 1 + below(60));
        write_scan("scan.json", n);
        write_evaluation("e.json", n, 1 + below(48), 1 + below(20));
        for (int k = 0, epochs = 1 + below(900); k < epochs; k++)
            fprintf(f, "{\"epoch\":%d,\"loss\":%g}\n", k + 1, (1 + below(1000)) / (1.0 + below(5000)));
        fclose(f);
        RUN("polar report s.json scan.json e.json curve.jsonl -o all.html", 0, "");
        check_page("all.html");
        /* each tick has its label, but those of cost */
        CHECK(count_in("all.html", "v4\"/>\n<text") == count_in("all.html", "v4\"/>\n"));
        CHECK(count_in("all.html", "<section>") == 4 && count_in("all.html", "</text>") > 40);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(counted), T(tree), T(damaged), T(labels),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
