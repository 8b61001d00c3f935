/* Tests of examples/answer. The verdicts of the tables are by hand; ../shared/data holds labelled answers of real
 * models and graders (answer_disagreements.md says where their labels and ours differ). */
#include "fuzz/fuzz_answer.c"
#include "../examples/cli/json.c"
#include "answer_pairs.h"
#include "test.h"

/* What the reader of JSON calls beside. */
int cli_fail(const char *format, ...) {
    (void)format;
    return 1;
}

const char *cli_what_is(const char *head, size_t n) {
    (void)head, (void)n;
    return NULL;
}

static int same(const char *pred, const char *gold, int flags) {
    const int r = answer_equal(pred, strlen(pred), gold, strlen(gold), flags);
    CHECK(r >= 0);
    return r;
}

/* Random numbers of the tests. */
static uint64_t next_random(uint64_t *state) {
    return *state = ans_mix(*state, 1);
}

static void check_extract(const char *response, const char *expected) {
    polar_span s = answer_extract(response, strlen(response));
    char text[256] = "";
    snprintf(text, sizeof text, "%.*s", (int)s.length, s.text);
    CHECK_STR(text, expected);
}

static void check_reference(const char *solution, const char *expected) {
    polar_span s = answer_reference(solution, strlen(solution));
    char text[256] = "";
    snprintf(text, sizeof text, "%.*s", (int)s.length, s.text);
    CHECK_STR(text, expected);
}

/* --- numbers */

static ans_work work;

static void begin_work(void) {
    work.budget = 100000000;
    work.pool_used = 0;
    work.n_nodes = 1;
}

TEST(naturals) {
    uint64_t state = 1;
    for (int i = 0; i < 2000; i++) { /* (a + b)(a - b) + b^2 = a^2 over numbers of many lengths */
        natural a, b, x, y;
        begin_work();
        a = nat_from(&work, next_random(&state) >> (next_random(&state) % 60));
        a = nat_power(&work, a, (uint32_t)(1 + i % 20));
        b = nat_from(&work, next_random(&state) >> (next_random(&state) % 60));
        b = nat_power(&work, b, (uint32_t)(1 + i % 7));
        if (nat_compare(&work, a, b) < 0) x = a, a = b, b = x;
        x = nat_multiply(&work, nat_add(&work, a, b), nat_subtract(&work, a, b));
        x = nat_add(&work, x, nat_multiply(&work, b, b));
        y = nat_multiply(&work, a, a);
        CHECK(x.n >= 0 && !nat_compare(&work, x, y));
    }
    begin_work();
    CHECK(nat_power(&work, nat_from(&work, 10), 3000).n < 0);
    CHECK(nat_ratio(&work, nat_from(&work, 1), nat_from(&work, 3)) == 1.0 / 3);
    CHECK(fabs(nat_ratio(&work, nat_power(&work, nat_from(&work, 7), 1000),
                         nat_power(&work, nat_from(&work, 7), 999)) - 7) < 2e-15);
}

/* Where the C library has the function, our value is within the error that it claims, and that error is small. */
static void check_near(cx z, double expected) {
    CHECK(fabs(z.re - expected) <= 4 * z.err + 4e-16 * fabs(expected) && fabs(z.im) <= 4 * z.err);
    CHECK(z.err <= 1e-11 * (1 + fabs(expected)));
}

TEST(functions) {
    uint64_t state = 3;
    for (int i = 0; i < 3000; i++) {
        double x = (ans_fraction(next_random(&state)) - 0.5) * 40, u = x / 21;
        check_near(cx_sin(cx_real(x)), sin(x));
        check_near(cx_cos(cx_real(x)), cos(x));
        check_near(cx_exp(cx_real(x / 4)), exp(x / 4));
        check_near(cx_log(cx_real(fabs(x) + 1e-3)), log(fabs(x) + 1e-3));
        check_near(cx_sinh(cx_real(u)), sinh(u));
        check_near(cx_arctan(cx_real(x)), atan(x));
        check_near(cx_arcsin(cx_real(u)), asin(u));
        check_near(cx_arccos(cx_real(u)), acos(u));
        check_near(cx_arsinh(cx_real(x)), asinh(x));
        check_near(cx_artanh(cx_real(u)), atanh(u));
        check_near(cx_arcosh(cx_real(1 + fabs(x))), acosh(1 + fabs(x)));
        CHECK(fabs(cx_factorial(cx_real(fabs(x))).re / tgamma(fabs(x) + 1) - 1) < 1e-13);
    }
    CHECK(cx_sqrt(cx_real(-4)).im == 2 && cx_sqrt(cx_real(-4)).re == 0);
    CHECK(fabs(cx_log(cx_real(-1)).im - ANS_PI) < 1e-15);
}

/* The value of a formula; NaN if it is none. */
static double value_of(const char *text) {
    begin_work();
    ans_prepare(&work, &work.pred, ans_span(text, strlen(text)), 0);
    ans_read(&work, &work.pred);
    work.probe = 0;
    return work.pred.root ? ans_part_value(&work, ans_whole(work.pred.root)).re : cx_nan().re;
}

TEST(reader) {
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"1+2\\cdot 3^2", 19}, {"-2^2", -4}, {"2^{-3}", 0.125}, {"2^10", 1024}, {"\\frac12", 0.5}, {"\\frac1234", 17},
        {"3\\frac{1}{2}", 3.5}, {"3\\frac{3}{2}", 4.5}, {"3.1\\frac12", 1.55}, {"137 1/2", 137.5}, {"\\sqrt16", 4},
        {"\\sqrt[3]{27}", 3}, {"\\sqrt[3]{-27}", -3}, {"5!", 120}, {"3!!", 3}, {"7!!", 105}, {"\\binom{6}{2}", 15},
        {"{6 \\choose 2}", 15}, {"|-3|", 3}, {"||-3|-1|", 2}, {"|2||3|", 6}, {"\\sin\\frac{\\pi}{2}", 1},
        {"\\sin^2 \\frac\\pi6", 0.25}, {"\\sin 30^\\circ", 0.5}, {"30^\\circ", 30}, {"\\cos 60^\\circ \\cdot 2", 1},
        {"\\ln e^2", 2}, {"\\log_2 8", 3}, {"\\log 1", 0}, {"e^{\\ln 3}", 3}, {"i^2", -1}, {"1/2/2", 0.25},
        {"6/2\\pi", 9.42477796076937972}, {"0.\\overline{3}", 1.0 / 3}, {"0.1\\overline{6}", 1.0 / 6},
        {"1{,}234.5", 1234.5}, {"1,234", 1234}, {"1\\,000", 1000}, {"1 000 000", 1000000}, {"2.5e3", 2500},
        {"2.5E-3", 0.0025}, {".5", 0.5}, {"-.5", -0.5}, {"7:2", 3.5}, {"50\\%", 50}, {"\\lfloor -2.5 \\rfloor", -3},
        {"\\lceil 2.1 \\rceil", 3}, {"\\max(1,5,3)", 5}, {"\\gcd(12,18)", 6}, {"\\sum_{k=1}^{10} k^2", 385},
        {"\\sum_{i=1}^{3} i", 6}, {"\\prod_{k=1}^5 k", 120}, {"10^\\circ 30'", 10.5}, {"12 \\text{ cm}^2", 12},
        {"3 m/s", 3}, {"\\text{seven}", 7}, {"\\$ 5.20", 5.2}, {"--5", 5}, {"\\tanh 0", 0},
        {"\\arctan 1", ANS_PI / 4}, {"\\tan^{-1} 1", ANS_PI / 4}, {"2 x 10^3", 2000}, {"4\\div 8", 0.5},
        {"sqrt(2)^2", 2}, {"\\left(\\tfrac{1}{2}\\right)^{-1}", 2}, {"\\dfrac{1}{\\frac{1}{3}}", 3},
        {"{}", 0.0 / 0.0}, {"1+", 0.0 / 0.0}, {"\\frac{1}{}", 0.0 / 0.0}, {"2 3", 0.0 / 0.0}, {"1/0", 0.0 / 0.0},
        {"0^0", 1}, {"0^{-1}", 0.0 / 0.0},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        double found = value_of(cases[i].text), want = cases[i].value;
        int right = want != want ? found != found : fabs(found - want) <= 1e-12 * (1 + fabs(want));
        CHECK(right);
        if (!right) printf("  %s is %g, expected %g\n", cases[i].text, found, want);
    }
}

/* --- extraction */

TEST(extraction) {
    check_extract("", "");
    check_extract("no digits here", "");
    check_extract("We get \\boxed{\\frac{1}{2}}, so we are done in 3 steps.", "\\frac{1}{2}");
    check_extract("First \\boxed{99}, then \\boxed{5}.", "5");
    check_extract("\\boxed{\\left\\{1,2\\right\\}}", "\\left\\{1,2\\right\\}");
    check_extract("Thus $\\boxed 7$.", "7");
    check_extract("Thus \\fbox{8}.", "8");
    check_extract("cut off: \\boxed{\\frac{1}{2}", "\\frac{1}{2}");
    check_extract("Some $y=2$. #### 1,200", "1,200");
    check_extract("She has $<<3*4=12>>12 left.\n#### 12\n", "12");
    check_extract("# Answer\n\n5", "5");
    check_extract("#### Step 1\nWe add.\n#### Step 2\nSo \\boxed{4}.\nThis took 2 steps.", "4");
    check_extract("Janet has 3.\nA: 18", "18");
    check_extract("The answer is $3$.", "3");
    check_extract("The ANSWER is: 17 !", "17");
    check_extract("The final answer is $\\frac{10}{27}$. I hope it is correct.", "\\frac{10}{27}");
    check_extract("The answer is 12. I hope it is correct. <|im_start|>user", "12");
    check_extract("The answer is 5, which is prime.", "5");
    check_extract("The answer is 3.5 apples.", "3.5 apples");
    check_extract("The answer is $5$ because 2 and 3 make that.", "5");
    check_extract("**Answer:** $x = 7$", "x = 7");
    check_extract("So $1,250$ is the answer.", "1,250");
    check_extract("So 5 is our answer.", "5");
    check_extract("Therefore, Evelyn is our answer", "Evelyn");
    check_extract("The first statement is false, I think.", "false");
    check_extract("Let $a=1$. Hence we find $50\\%$.", "50\\%");
    check_extract("Let \\(a=1\\). Hence \\[x = 2\\]", "x = 2");
    check_extract("It costs $5 and then another $6 in total", "$6");
    check_extract("We have 3 apples and 0.25 pears", "0.25");
    check_extract("It is -3.5 degrees", "-3.5 degrees");
    check_extract("They paid 1,234,567 together", "1,234,567");
    check_extract("pages 10-12", "12");
    check_extract("herefore 9. And 10.", "10");
    check_extract("<think>maybe \\boxed{3}</think> It is 4.", "4");
}

TEST(references) {
    check_reference("Add them: 40+2 = <<40+2=42>>42\n#### 42", "42");
    check_reference("We have $x=\\boxed{\\frac{3}{4}}$, as said.", "\\frac{3}{4}");
    check_reference("9 (apples)", "9");
    check_reference("9:2", "9:2");
    check_reference("$\\frac{13}{4}$", "\\frac{13}{4}");
    check_reference("-9867630.0", "-9867630.0");
    check_reference("(3, 4)", "(3, 4)");
    check_reference("Monday", "Monday");
    check_reference("The 60th caller.", "The 60th caller");
    CHECK(answer_flags("Find the value", 14) == ANSWER_SETS);
    CHECK(answer_flags("Enter all answers, separated by commas", 38) == ANSWER_SETS);
    CHECK(answer_flags("What is 1+1?", 12) == 0);
}

/* --- equality */

typedef struct pair {
    const char *a, *b;
} pair;

static void check_pairs(const pair *pairs, int n, int expected) {
    for (int i = 0; i < n; i++) {
        int r = same(pairs[i].a, pairs[i].b, 0), s = same(pairs[i].b, pairs[i].a, 0);
        CHECK(r == expected && s == expected);
        if (r != expected || s != expected) printf("  %s ~ %s: %d, mirrored %d\n", pairs[i].a, pairs[i].b, r, s);
    }
}

TEST(equal) {
    static const pair pairs[] = {
    {"{1,2,3} \\cup {4,5}", "\\{1,2,3,4,5\\}"}, {"\\{1,2,3\\} \\cup \\{4,5\\}", "\\{1,2,3,4,5\\}"},
    {"\\{1,2,3\\} \\cap \\{2,3,4\\}", "\\{2,3\\}"}, {"x=1 \\text{ or } x=2", "\\{1,2\\}"},
    {"x = 2 \\text{ or } x=1", "1,2"}, {"\\frac{1}{2} < x < \\frac32", "(\\frac12, 1.5)"}, {"x > 5", "(5,\\infty)"},
    {"x \\ge 5", "[5,\\infty)"}, {"x \\neq 3", "(-\\infty,3)\\cup(3,\\infty)"},
    {"\\mathbb{R} \\setminus \\{3\\}", "x \\ne 3"}, {"x\\in\\mathbb{R}", "(-\\infty,\\infty)"},
    {"\\text{all real numbers}", "\\text{All real numbers}"}, {"x_1=3, x_2=4", "3,4"},
    {"10^{\\circ} 30'", "10.5^\\circ"}, {"0.\\overline{3}", "\\frac13"}, {"0.1\\overline{6}", "1/6"},
    {"\\sqrt[3]{-8}", "-2"}, {"\\lfloor 3.7 \\rfloor", "3"}, {"\\lceil x \\rceil", "\\lceil x\\rceil"},
    {"\\log_{10} 100", "2"}, {"\\lg 100", "2"}, {"\\lim_{x \\to 3} a", "\\lim_{x\\to 3} a"},
    {"\\int x dx", "\\int x \\, dx"}, {"\\sum_{k=1}^{3} k", "6"}, {"\\sum_{k = 1}^{n} k^2", "\\sum_{j=1}^{n} j^2"},
    {"\\prod_{k=1}^{4} k", "24"}, {"\\frac{d}{dx} x^2", "\\frac{d}{dx} x^{2}"}, {"3^{2007}", "3^{2007}"},
    {"2 \\cdot 3^{2006} + 3^{2006}", "3^{2007}"}, {"\\frac{1}{2004!}", "\\frac{1}{2004!}"},
    {"y=c_{1} e^{-7 x}+c_{2} e^{-x}", "c_1 e^{-7x}+c_2 e^{-x}"}, {"8 \\sqrt{x}+C", "C + 8x^{1/2}"},
    {"\\text{1:03 PM}", "1:03 \\text{ p.m.}"}, {"13:03", "1:03 PM"}, {"January 5, 2020", "5 Jan 2020"},
    {"9:2", "\\frac{9}{2}"}, {"1:2:3", "2:4:6"}, {"\\frac{x^{2}}{2} - \\frac{y^{2}}{2} = 1", "x^2 - y^2 = 2"},
    {"\\pm 3", "3,-3"}, {"\\pm 6, \\pm 2", "6,-6,2,-2"}, {"2\\cos 15^{\\circ}", "\\frac{\\sqrt6+\\sqrt2}{2}"},
    {"\\cos\\frac{\\pi}{3}", "\\frac12"}, {"\\sin^{-1}(1)", "\\frac{\\pi}{2}"}, {"\\arctan 1", "\\pi/4"},
    {"\\tan^{-1} x", "\\arctan x"}, {"\\cosh^{-1} x", "\\operatorname{arccosh} x"}, {"e^{i\\pi}", "-1"},
    {"\\frac{2}{1+i}", "1-i"}, {"(1+i)^2", "2i"}, {"x^{-\\frac12}", "\\frac{1}{\\sqrt{x}}"},
    {"\\sqrt{x}\\sqrt{x}", "x"}, {"a^{2}-b^2", "(a-b)(a+b)"}, {"\\ln(2)+\\ln(3)", "\\ln 6"}, {"\\log_2 8", "3"},
    {"\\frac{\\ln 8}{\\ln 2}", "3"}, {"5\\text{ cm}^2", "5"}, {"12 \\text{ square units}", "12"},
    {"$15 per hour", "15"}, {"4,\\,5", "4, 5"}, {"3\\,000", "3000"}, {"12{,}345.67", "12345.67"},
    {"1\\frac{1}{2}", "1.5"}, {"2 1/2", "2.5"}, {"-2\\frac{1}{3}", "-7/3"}, {"f(x) = 2x+1", "2x + 1"},
    {"P(x)=x^2+1", "x^2+1"}, {"\\angle ABC = 30^\\circ", "30"}, {"AB = 5", "5"}, {"a_n = 2n+1", "2n+1"},
    {"\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}", "\\begin{pmatrix} 1&2\\\\3&4\\end{pmatrix}"},
    {"\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2\\end{pmatrix}"},
    {"\\langle 1,2\\rangle", "(1,2)"},
    {"\\left[\\begin{array}{cc}1 & 2 \\\\3 & 4\\end{array}\\right]", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"},
    {"\\begin{cases} x=1\\\\ y=2\\end{cases}", "x=1, y=2"}, {"x=1,y=2", "y=2,x=1"}, {"3 \\times 10^{-5}", "0.00003"},
    {"3x10^5", "3 x 10^5"}, {"3 x 10^5", "300000"}, {"1.5e3", "1500"}, {"50\\%", "0.5"}, {"50\\%", "1/2"},
    {"50", "50\\%"}, {"$\\frac{1}{2}$ or $\\frac{1}{3}$", "\\{1/3, 1/2\\}"}, {"[1,2]\\cup[2,3]", "[1,3]"},
    {"(1,3)\\cap[2,5]", "[2,3)"}, {"-\\frac{1}{2}, 3", "-0.5,3"}, {"x \\equiv 3 \\pmod{7}", "x \\equiv 3 \\pmod 7"},
    {"\\overline{AB}", "AB"}, {"\\sqrt{2}/2", "\\frac{1}{\\sqrt2}"}, {"\\frac{\\sqrt 2}{2}", "\\sin 45^\\circ"},
    {"\\{x | x > 3\\}", "x>3"}, {"\\{x \\mid x>3\\}", "(3,\\infty)"}, {"\\{x : -1 < x \\le 2\\}", "(-1,2]"},
    {"\\left\\{ x \\in \\mathbb{R} \\mid x > 3 \\right\\}", "(3,\\infty)"},
    {"x<1 \\text{ or } x>3", "(-\\infty,1)\\cup(3,\\infty)"}, {"x>1 \\text{ and } x<3", "(1,3)"},
    {"k>\\frac{1}{2}", "k > 0.5"}, {"2x > 6", "x > 3"}, {"(x-1)^2+(y+2)^2=9", "x^2 + y^2 - 2x + 4y - 4 = 0"},
    {"C(n,k)", "C(n, k)"}, {"\\gcd(12,18)", "6"}, {"\\max(1,2,3)", "3"}, {"|x-y|", "|y-x|"},
    {"\\sqrt{(x-1)^2}", "|x-1|"}, {"n!/(n-1)!", "n"}, {"\\binom{n}{2}", "\\frac{n(n-1)}{2}"}, {"100!/98!", "9900"},
    {"\\text{Yes}", "True"}, {"\\text{No}", "no"}, {"yes.", "Yes"}, {"3.0 \\text{ m/s}^2", "3"},
    {"3 \\mathrm{~m} \\mathrm{~s}^{-1}", "3"},
    {"(-\\infty, -2] \\cup [2, +\\infty)", "(-\\infty,-2]\\cup[2,\\infty)"}, {"\\dfrac{7}{12}\\approx 0.583", "7/12"},
    {"4^{x+1}", "4\\cdot 4^x"}, {"2^{2x}", "4^x"}, {"\\frac{3}{4}\\text{ of the cake}", "3/4"},
    {"\\frac{a+b}{c}", "(a+b)/c"}, {"\\text{A, B}", "A, B"}, {"(A),(B)", "A,B"},
    {"x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}", "\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}"},
    {"1+\\sqrt{2},1-\\sqrt{2}", "1\\pm\\sqrt2"}, {"\\vec{v}", "v"}, {"i, -i", "\\pm i"},
    {"\\cot^{-1} x", "\\arctan(1/x)"}, {"3n \\text{ for } n \\geq 1", "3n \\text{ for } n\\ge 1"},
    {"5 \\text{ or } 7", "7 \\text{ or } 5"}, {"\\$18", "18 \\text{ dollars}"}, {"18 USD", "18"},
    {"2^{1/3}", "\\sqrt[3]{2}"}, {"\\sin 2x", "2\\sin x\\cos x"}, {"\\tan x", "\\frac{\\sin x}{\\cos x}"},
    {"\\sin^2 x + \\cos^2 x", "1"}, {"(-1)^{n}", "(-1)^n"}, {"\\sec^2 x - \\tan^2x", "1"},
    {"\\emptyset", "\\varnothing"}, {"\\{\\}", "\\emptyset"}, {"\\frac{20}{\\frac{5}{2}}", "8"},
    {"1 - e^{-1}", "1-\\frac1e"}, {"\\pi r^2", "r^2\\pi"}, {"π/2", "\\frac{\\pi}{2}"}, {"√2", "\\sqrt{2}"},
    {"½", "0.5"}, {"x²", "x^2"}, {"x ≤ 3", "x\\le3"}, {"\\text{(A)}", "A"}, {"A)", "A"},
    {"\\textbf{(C)}~5", "\\textbf{(C)} 5"}, {"\\sqrt{16}", "4"}, {"\\left(\\frac{1}{2}\\right)^{-2}", "4"},
    {"0.1 + 0.2i", "\\frac{1+2i}{10}"}, {"1e-7", "0.0000001"}, {"2e+1", "1+2e"}, {"2e-3", "0.002"},
    {"\\overrightarrow{AB}", "AB"}, {"27\\text{th}", "27"}, {"6+9i", "9i+6"},
    {"\\mathbf{i}+2\\mathbf{j}", "2\\mathbf{j} + \\mathbf{i}"}, {"\\frac{\\pi}{2}+k\\pi", "k\\pi + \\pi/2"},
    {"-x^2", "-(x^2)"}, {"4 \\frac{1}{2} \\text{ hours}", "4.5"}, {"3\\sqrt[4]{5}", "3 \\cdot 5^{1/4}"},
    {"5!", "120"}, {"\\frac{n!}{k!(n-k)!}", "\\binom nk"}, {"\\lvert x \\rvert", "|x|"},
    {"\\left\\lfloor \\frac{n}{2} \\right\\rfloor", "\\lfloor n/2\\rfloor"}, {"a \\bmod b", "a \\bmod b"},
    {"f(x, y)", "f{\\left(x,y \\right)}"}, {"f(x)", "f{\\left(x \\right)}"},
    {"h_{\\theta}(x_0, x_1)", "h_{\\theta}{\\left(x_{0},x_{1} \\right)}"},
    {"\\sum_{n = 0}^{\\infty} \\frac{1}{n!}", "e"}, {"\\sum_{n=0}^{\\infty} \\frac{1}{2^n}", "2"},
    {"\\int x + a dx", "\\int \\left(a + x\\right)\\, dx"}, {"\\int da", "\\int 1\\, da"},
    {"\\int_0^7 dx", "\\int\\limits_{0}^{7} 1\\, dx"}, {"\\int\\limits_{0}^{1} x dx", "\\int_0^1 x\\,dx"},
    {"\\int \\frac{dz}{z}", "\\int \\frac{1}{z}\\, dz"},
    {"\\int \\frac{1}{a} + \\frac{1}{b} dx", "\\int \\left(\\frac{1}{b} + \\frac{1}{a}\\right)\\, dx"},
    {"\\prod_{a = b}^{c} x", "\\prod_{a=b}^{c} x"}, {"\\prod^{c}_{a=b} x", "\\prod_{a=b}^{c} x"},
    {"\\sum^{3}_{k = 1} c", "\\sum_{k=1}^{3} c"}, {"\\mathit{HELLO world}", "HELLO world"},
    {"\\mathit{TEST}", "TEST"}, {"\\log xy", "\\log{\\left(x y \\right)}"},
    {"\\log_{a^2} x", "\\frac{\\log{\\left(x \\right)}}{\\log{\\left(a^{2} \\right)}}"},
    {"\\log_{11} x", "\\frac{\\log{\\left(x \\right)}}{\\log{\\left(11 \\right)}}"},
    {"\\overline{z}", "\\overline{z}"}, {"\\overline{x + y}", "\\overline{x} + \\overline{y}"},
    {"\\pi^{|xy|}", "\\pi^{\\left|{x y}\\right|}"},
    {"\\frac{d}{dx} [ \\tan x ]", "\\frac{d}{d x} \\tan{\\left(x \\right)}"}, {"\\frac{d}{dt} x", "\\frac{d}{d t} x"},
    {"(\\csc x)(\\sec y)", "\\csc{\\left(x \\right)} \\sec{\\left(y \\right)}"},
    {"\\sin a \\cos b", "\\sin{\\left(a \\right)} \\cos{\\left(b \\right)}"}, {"x = y", "x = y"},
    {"a^2 + b^2 = c^2", "a^{2} + b^{2} = c^{2}"}, {"\\lfloor x \\rfloor", "\\left\\lfloor{x}\\right\\rfloor"},
    {"\\lceil x \\rceil", "\\left\\lceil{x}\\right\\rceil"}, {"x \\neq y", "x \\neq y"},
    {"\\sqrt{\\frac{12}{6}}", "\\sqrt{2}"}, {"\\frac{a + b}{c}", "\\frac{a}{c}+\\frac{b}{c}"},
    {"a \\div b", "\\frac{a}{b}"}, {"\\operatorname{arcsinh}(x)", "\\operatorname{asinh}{\\left(x \\right)}"},
    {"\\arcsinh(x)", "\\operatorname{asinh}{\\left(x \\right)}"},
    {"\\arcsin(x)", "\\operatorname{asin}{\\left(x \\right)}"},
    {"\\sin^{-1}(x)", "\\operatorname{asin}{\\left(x \\right)}"},
    {"\\operatorname{arccosh} a", "\\operatorname{acosh}{\\left(a \\right)}"},
    {"\\tanh^{-1} x", "\\operatorname{atanh}{\\left(x \\right)}"}, {"\\gcd(18, 3)", "3"},
    {"\\operatorname{gcd}(18, 22, 24)", "2"}, {"\\gcd\\left(18,3\\right)", "3"}, {"\\lcm(6, 4)", "12"},
    {"\\operatorname{lcm}(6,4)", "12"}, {"\\max(a,b,c)", "\\max\\left(a, b, c\\right)"}, {"\\min\\{3,4\\}", "3"},
    {"\\floor(2.3)", "2"}, {"\\ceil(2.3)", "3"}, {"\\left|\\frac{a}{b}\\right|", "\\frac{|a|}{|b|}"},
    {"e^{I\\pi}", "-1"}, {"e^{\\mathrm{i}\\pi}", "-1"}, {"\\mathrm{e}^{x}", "e^{x}"}, {"\\exp{x}", "e^x"},
    {"\\cos(\\pi)", "-1"}, {"\\pi e", "e \\pi"}, {"-1\\frac{1}{2}", "-\\frac{3}{2}"}, {"2\\frac{3}{4}", "2.75"},
    {"\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\left[\\begin{matrix}1\\\\2\\end{matrix}\\right]"},
    {"\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "\\begin{vmatrix} 1 & 2 \\\\ 3 & 4 \\end{vmatrix}"},
    {"x \\in \\{1,2\\}", "\\{1,2\\}"}, {"\\{x \\in \\mathbb{R} : x > 0\\}", "(0,\\infty)"},
    {"(-\\infty,\\infty)", "\\mathbb{R}"}, {"[0,3) \\cup (3,\\infty)", "[0, \\infty) \\setminus \\{3\\}"},
    {"x_1=10^{\\frac{-5+\\sqrt{13}}{6}},\\quad x_2=10^{\\frac{-5-\\sqrt{13}}{6}}",
     "10^{\\frac{-5+\\sqrt{13}}{6}}, 10^{\\frac{-5-\\sqrt{13}}{6}}"},
    {"27 \\pi", "27\\pi"}, {"V = \\frac{1}{3} \\pi r^2 h", "\\frac{\\pi r^2 h}{3}"},
    {"\\left(\\frac{4}{5}\\right)^n", "0.8^n"}, {"41^{\\circ}", "41"}, {"4 \\mathrm{~cm}^{2}", "4"},
    {"x=3, y=-1", "(3,-1)"}, {"\\text { odd }", "odd"}, {"y^{4}-2 y^{3}+7 y^{2}-6 y+9", "(y^2-y+3)^2"},
    {"3 \\mathrm{~km} / \\mathrm{h}", "3"}, {"15 \\%", "15\\%"}, {"20\\%", "\\frac{1}{5}"},
    {"\\frac{1}{2}\\%", "0.5\\%"}, {"2,3,5", "2, 3 \\text{ and } 5"}, {"1 \\le x", "x\\ge1"},
    {"x \\in (1,2) \\cup (3,4)", "(1,2)\\cup(3,4)"}, {"{\\frac{1}{2}}", "0.5"}, {"{5}", "5"},
    {"\\left\\{5\\right\\}", "5"}, {"(5)", "5"}, {"1.0", "1"}, {"1,234,567.89", "1234567.89"},
    {"-\\frac{-3}{4}", "\\frac34"}, {"--3", "3"}, {"a_{1}=2", "2"}, {"n = 2k+1", "2k+1"},
    {"2^{100}", "1267650600228229401496703205376"}, {"0.5x", "\\frac{x}{2}"}, {"(x+1)(x+2) = 0", "x^2+3x+2=0"},
    {"3x = 6", "x = 2"}, {"\\frac{1}{2}\\ln 3", "\\ln\\sqrt3"}, {"4!", "24"}, {"\\text{Sunday}", "Sun"},
    {"\\dfrac{\\sqrt{3}}{2}", "\\sin 60°"}, {"150\\text{ km/h}", "150"}, {"5 feet", "5"}, {"6 \\text{ inches}", "6"},
    {"2\\text{ hours and }30\\text{ minutes}", "2\\text{ hours and }30\\text{ minutes}"},
    {"\\text{(A), (C)}", "A, C"}, {"\\text{A and B}", "A,B"}, {"x=\\pm 2", "\\pm 2"}, {"x=\\pm 2", "2,-2"},
    {"\\pm\\frac{1}{2}", "\\frac12, -\\frac12"}, {"\\binom{n}{n-k}", "\\binom{n}{k}"}, {"(n+1)!", "(n+1) n!"},
    {"\\cos^2 x", "1-\\sin^2 x"}, {"3 + 4i", "4i + 3"}, {"|3+4i|", "5"}, {"5\\angle 30^\\circ", "5\\angle 30^\\circ"},
    {"2 \\text{ and } 3", "2,3"}, {"\\{(1,2),(3,4)\\}", "\\{(3,4),(1,2)\\}"},
    {"\\{\\{1\\},\\{2\\}\\}", "\\{\\{2\\},\\{1\\}\\}"}, {"((1,2),(3,4))", "((1,2),(3,4))"}, {"10 : 20", "1:2"},
    {"a^{1/2}", "\\sqrt a"}, {"0.\\overline{142857}", "1/7"}, {"1/3 \\text{ cup}", "1/3"},
    {"1.5 \\times 10^{-3} \\text{ m}", "0.0015"}, {"\\mathbf{(B)}", "B"}, {"\\boxed{5}", "5"}, {"\\textbf{5}", "5"},
    {"5\\%", "0.05"}, {"\\(\\frac{1}{2}\\)", "0.5"}, {"\\[x=5\\]", "5"}, {"$$7$$", "7"}, {"`7`", "7"}, {"**7**", "7"},
    {"7!", "5040"}, {"\\infty", "infinity"}, {"inf", "\\infty"}, {"-oo", "-\\infty"}, {"+\\infty", "\\infty"},
    {"no real solutions", "No real solutions"}, {"\\varnothing", "\\{\\}"}, {"\\text{No solution}", "no solution"},
    {"\\text{DNE}", "DNE"}, {"Does not exist", "does not exist"}, {"3 \\div 4", "0.75"},
    {"100 \\text{ or } 200", "200, 100"},
    };
    check_pairs(pairs, COUNT(pairs), 1);
}

TEST(different) {
    static const pair pairs[] = {
    {"1:2:3", "2:4:7"}, {"(1,2)", "(2,1)"}, {"[1,2)", "(1,2]"}, {"[1,2]", "(1,2)"}, {"(1,2)", "[1,2]"},
    {"x>3", "x\\ge 3"}, {"x<3", "x>3"}, {"3", "300"}, {"5", "50"}, {"0.33", "1/3"}, {"\\{1,2\\}", "\\{1,3\\}"},
    {"\\{1,2\\}", "\\{1,2,3\\}"}, {"\\text{seat}", "\\text{east}"}, {"seat", "east"},
    {"-5\\text{ cm}", "5 \\text{ cm}"}, {"5x", "5"}, {"x+1", "x+2"}, {"2^{98}", "2^{99}"}, {"1/2^{98}", "1/2^{99}"},
    {"10^{20}+1", "10^{20}"}, {"\\sin x", "\\cos x"}, {"\\sqrt{2}", "1.414"}, {"\\frac{22}{7}", "\\pi"},
    {"y=2x", "y=3x"}, {"x=5", "x=-5"}, {"x^2+y^2=1", "x^2+y^2=2"}, {"1,2,3", "3,2,1"},
    {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"}, {"123_4", "123_5"},
    {"1001_2", "1001"}, {"A", "B"}, {"\\text{(A)}", "\\text{(B)}"}, {"Tuesday", "Thursday"}, {"100", "1"},
    {"\\pi", "180^\\circ"}, {"45^\\circ", "\\pi/4"}, {"\\sin 30", "\\sin 30^\\circ"}, {"x", "-x"}, {"|x|", "x"},
    {"\\infty", "-\\infty"}, {"2\\pi", "2"}, {"\\sqrt{x^2}", "x"}, {"f(2x)", "2f(x)"}, {"f(x+1)", "f(x)+1"},
    {"x_1", "x_2"}, {"x_{n+1}", "x_{n}"}, {"(-\\infty,3)", "(-\\infty,3]"}, {"3 < x < 5", "3 < x < 6"},
    {"3 < x < 5", "3 \\le x \\le 5"}, {"\\{1\\}", "\\{2\\}"}, {"i", "-i"}, {"0.999", "1"}, {"3.14159", "\\pi"},
    {"\\text{True}", "\\text{False}"}, {"12:30", "12:31"}, {"1:30 AM", "1:30 PM"}, {"\\sqrt{10^{20}+1}-10^{10}", "0"},
    {"1.23e-12", "1.24e-12"}, {"0.00000001", "0.00000002"}, {"\\frac{1}{2}", "50"}, {"\\frac{1", "\\frac{1"},
    {"((1,2)", "((1,2)"}, {"", ""}, {"}{", "}{"}, {"(1,2,3)", "(1,2)"}, {"x+y", "xy"}, {"AB", "BA + 1"}, {"2 3", "6"},
    {"y = x + 1", "y = x - 1"}, {"x > 2", "x > 2, x < 5"}, {"\\text{no solution}", "\\text{one solution}"},
    {"1,000", "1"}, {"1,000,000", "1000"}, {"12", "1,2"}, {"3\\frac{1}{2}", "\\frac32"}, {"1/(2x)", "\\frac{x}{2}"},
    };
    check_pairs(pairs, COUNT(pairs), 0);
}

TEST(classes) {
    const int n = COUNT(answer_pairs);
    for (int i = 0; i < n + COUNT(answer_responses); i++) {
        const answer_pair *p = i < n ? &answer_pairs[i] : &answer_responses[i - n];
        polar_span pred = ans_span(p->pred, strlen(p->pred));
        int r;
        if (i >= n) pred = answer_extract(pred.text, pred.length);
        r = answer_equal(pred.text, pred.length, p->gold, strlen(p->gold), 0);
        CHECK(r == p->expect);
        if (r != p->expect)
            printf("  %s %s: %s [%.*s] ~ %s\n", r ? "accepted" : "missed", p->class, p->pred, (int)pred.length,
                   pred.text, p->gold);
    }
}

TEST(sets) {
    CHECK(same("1,2", "2,1", ANSWER_SETS) && !same("1,2", "2,1", 0));
    CHECK(same("{2,1}", "\\{1,2\\}", ANSWER_SETS) && same("1,2,2", "1,2", ANSWER_SETS));
    CHECK(same("(1,2),(3,4)", "(3,4),(1,2)", ANSWER_SETS));
    CHECK(!same("(1,2),(3,4)", "(3,4),(2,1)", ANSWER_SETS));
    CHECK(same("(7,11),\\ (11,7)", "(11,7)or(7,11)", ANSWER_SETS));
    CHECK(!same("1,2", "1,2,3", ANSWER_SETS) && !same("1,2,3", "1,2", ANSWER_SETS));
    CHECK(!same("(1,2)", "(2,1)", ANSWER_SETS) && !same("[0,1)", "(0,1]", ANSWER_SETS));
    CHECK(same("a=4,\\,-8,\\,-10", "-10,-8,4", ANSWER_SETS) && same("x=\\frac12", "0.5", ANSWER_SETS));
    CHECK(same("2\\pm\\sqrt3", "2+\\sqrt3, 2-\\sqrt3", ANSWER_SETS));
}

/* --- data */

/* The next line of a file; NULL at the end. The last line is freed. */
static const json *next_line(FILE *f) {
    static char text[1 << 18];
    static json_document *d;
    const char *error;
    size_t at;
    json_free(d);
    d = NULL;
    if (!f || !fgets(text, sizeof text, f)) return NULL;
    d = json_read(text, strlen(text), &error, &at);
    CHECK(d != NULL);
    return d ? json_root(d) : NULL;
}

/* The text of a value; numbers as written. */
static polar_span span_of(const json *v) {
    return v && v->type != JSON_NULL ? ans_span(v->text, v->length) : ans_span("", 0);
}

static polar_span member(const json *object, const char *key) {
    return span_of(json_get(object, key));
}

static int is_true(const json *v) {
    return v && v->type == JSON_TRUE;
}

static int equal_spans(polar_span a, polar_span b, int flags) {
    const int r = answer_equal(a.text, a.length, b.text, b.length, flags);
    CHECK(r >= 0);
    return r;
}

TEST(data_check) {
    FILE *f = test_shared("data/answer_check.jsonl");
    int n = 0, wrong = 0, wrong_where_reference_right = 0;
    const json *line;
    while ((line = next_line(f)) != NULL) {
        polar_span pred = member(line, "pred"), gold = member(line, "gold");
        int expect = is_true(json_get(line, "expect")), got;
        const char *kind = json_get_text(line, "kind");
        if (kind && !strcmp(kind, "response")) pred = answer_extract(pred.text, pred.length);
        got = equal_spans(pred, gold, is_true(json_get(line, "sets")) ? ANSWER_SETS : 0);
        n++;
        if (got == expect) continue;
        wrong++;
        wrong_where_reference_right += is_true(json_get(line, "dart")) == expect;
        printf("  %.*s ~ %.*s: %d\n", (int)pred.length, pred.text, (int)gold.length, gold.text, got);
    }
    CHECK(wrong * 100 <= n && !wrong_where_reference_right && (!f || n > 600));
    if (f) fclose(f);
}

/* One row per class of faults: how many of the wrong answers are accepted, and how many of the right ones missed. */
typedef struct class_count {
    char name[24];
    int n[2], wrong[2]; /* by what is expected */
} class_count;

static class_count *class_of(class_count *classes, int *n, const char *name) {
    int i = 0;
    while (i < *n && strcmp(classes[i].name, name)) i++;
    if (i == *n) snprintf(classes[(*n)++].name, sizeof classes->name, "%s", name);
    return &classes[i];
}

/* Verdict of a line of answer_check2.jsonl; with POLAR_TEST_PRINT in the environment disagreements and the table of
 * classes are printed. POLAR_ANSWER_PAIRS names another file of such lines. */
static int check_class(const json *line, class_count *classes, int *n_classes) {
    const char *kind = json_get_text(line, "kind"), *class = json_get_text(line, "class");
    polar_span pred = member(line, "pred"), gold = member(line, "gold");
    const int expect = is_true(json_get(line, "expect"));
    int got;
    class_count *c;
    if (kind && !strcmp(kind, "response")) pred = answer_extract(pred.text, pred.length);
    got = equal_spans(pred, gold, is_true(json_get(line, "sets")) ? ANSWER_SETS : 0);
    c = class_of(classes, n_classes, class ? class : "");
    c->n[expect]++;
    c->wrong[expect] += got != expect;
    if (got != expect && getenv("POLAR_TEST_PRINT"))
        printf("  %s %s: \"%s\" [%.*s] ~ \"%.*s\"\n", got ? "accepted" : "missed", class ? class : "",
               json_get_text(line, "pred"), (int)pred.length, pred.text, (int)gold.length, gold.text);
    return got == expect;
}

TEST(data_classes) {
    const char *other = getenv("POLAR_ANSWER_PAIRS");
    FILE *f = other ? fopen(other, "rb") : test_shared("data/answer_check2.jsonl");
    class_count classes[32] = {{"", {0, 0}, {0, 0}}};
    int n = 0, agreed = 0, n_classes = 0, n_false = 0, accepted = 0;
    const json *line;
    while ((line = next_line(f)) != NULL && n_classes < 31) {
        agreed += check_class(line, classes, &n_classes);
        n++;
    }
    for (int i = 0; i < n_classes; i++) {
        const class_count *c = &classes[i];
        n_false += c->n[0];
        accepted += c->wrong[0];
        if (getenv("POLAR_TEST_PRINT"))
            printf("  %-14s %3d right, %2d missed; %3d wrong, %2d accepted\n", c->name, c->n[1], c->wrong[1], c->n[0],
                   c->wrong[0]);
    }
    if (getenv("POLAR_TEST_PRINT")) printf("  %d of %d agree, %d of %d wrong accepted\n", agreed, n, accepted, n_false);
    CHECK(agreed * 100 >= n * 92 && accepted * 100 <= n_false * 3 && (!f || other || n > 300));
    if (f) fclose(f);
}

TEST(data_extract) {
    FILE *f = test_shared("data/answer_extract.jsonl");
    int n = 0, wrong = 0;
    const json *line;
    while ((line = next_line(f)) != NULL) {
        polar_span text = member(line, "text"), expected = member(line, "answer"), found;
        found = answer_extract(text.text, text.length);
        n++;
        wrong += !equal_spans(found, expected, 0) && !ans_same_bytes(found, expected);
    }
    CHECK(wrong * 50 <= n && (!f || n > 80));
    if (f) fclose(f);
}

/* Labelled solutions of four models to each question. */
TEST(data_gsm8k) {
    FILE *f = test_shared("data/math/gsm8k_example_model_solutions.jsonl");
    int n = 0, wrong = 0;
    const json *line;
    while ((line = next_line(f)) != NULL) {
        polar_span gold = member(line, "ground_truth");
        gold = answer_reference(gold.text, gold.length);
        for (const json *m = line->child; m; m = m->next) {
            polar_span solution = member(m, "solution");
            if (m->type != JSON_OBJECT) continue;
            solution = answer_extract(solution.text, solution.length);
            n++;
            wrong += equal_spans(solution, gold, 0) != is_true(json_get(m, "is_correct"));
        }
    }
    CHECK(wrong == 0 && (!f || n > 3000));
    if (f) fclose(f);
}

/* Verdicts of another grader on answers already extracted. It calls 10000 different from 10{,}000. */
TEST(data_cot) {
    FILE *f = test_shared("data/math/math_cot_100.jsonl");
    int n = 0, wrong = 0;
    const json *line;
    while ((line = next_line(f)) != NULL) {
        polar_span gold = member(line, "gt");
        const json *score = json_get(line, "score")->child;
        for (const json *p = json_get(line, "pred")->child; p; p = p->next, score = score->next) {
            n++;
            wrong += equal_spans(span_of(p), gold, 0) != is_true(score);
        }
    }
    CHECK(wrong <= 1 && (!f || n > 500));
    if (f) fclose(f);
}

/* Every reference answer equals itself, and is read as a formula nearly always. */
static void check_golds(const char *path, const char *key, int unequal, int unread) {
    FILE *f = test_shared(path);
    const json *line;
    while ((line = next_line(f)) != NULL) {
        polar_span gold = member(line, key);
        gold = answer_reference(gold.text, gold.length);
        unequal -= !equal_spans(gold, gold, 0);
        begin_work();
        ans_prepare(&work, &work.pred, gold, 0);
        ans_read(&work, &work.pred);
        unread -= !work.pred.root;
    }
    CHECK(unequal >= 0 && unread >= 0);
    if (f) fclose(f);
}

TEST(data_golds) {
    check_golds("data/math/math_test.jsonl", "solution", 0, 0);
    check_golds("data/math/college_math.jsonl", "answer", 2, 20); /* two have unequal brackets */
    check_golds("data/math/gaokao2023en.jsonl", "answer", 1, 1);  /* one is empty */
    check_golds("data/math/asdiv.jsonl", "answer", 0, 0);
    check_golds("data/math/minerva_math.jsonl", "solution", 0, 2);
    check_golds("data/math/gsm8k_test.jsonl", "answer", 0, 0);
    check_golds("data/math/svamp.jsonl", "Answer", 0, 0);
    check_golds("data/math/cmath.jsonl", "answer", 0, 0);
    check_golds("data/math/aqua.jsonl", "correct", 0, 0);
}

/* --- limits */

/* A text of `n` copies of `part`, then `end`. */
static char *repeat(const char *part, int n, const char *end) {
    size_t length = strlen(part);
    char *s = malloc(length * (size_t)n + strlen(end) + 1);
    for (int i = 0; i < n; i++) memcpy(s + length * (size_t)i, part, length);
    strcpy(s + length * (size_t)n, end);
    return s;
}

typedef struct hostile_answer {
    const char *part;
    int n;
    const char *end;
} hostile_answer;

/* An answer of n parts, against itself and others. */
static void grade_hostile(void *context, size_t n) {
    const hostile_answer *x = context;
    char *s = repeat(x->part, (int)n, x->end), *other = repeat(s, 1, "+1");
    const polar_span found = answer_extract(s, strlen(s));
    same(s, other, 0);
    same("7", s, ANSWER_SETS);
    same(s, "x+1", 0);
    CHECK(found.length <= strlen(s));
    free(s);
    free(other);
}

TEST(hostile) {
    static const hostile_answer cases[] = {
        {"9^", 3, "9"}, {"9^{", 600, "9"}, {"(", 1000, "1"}, {"{", 1000000, "}"}, {"\\frac{1}{", 200, "2"},
        {"|x", 700, "|"}, {"||x|", 500, ""}, {"5!", 1, ""}, {"((9!)!)!", 1, ""}, {"x!!!!!!!!", 200, ""},
        {"1+", 1000, "1"}, {"x+", 150, "x"}, {"1,", 1000, "1"}, {"x,", 127, "x"}, {"\\pm x,", 63, "x"},
        {"5 m", 600, " x"}, {"\\text{ a}", 200, ""}, {"-", 2000, "1"}, {"\\sin ", 400, "x"}, {"x_", 1000, "x"},
        {"\\sum_{k=1}^{999}", 20, "k"}, {"(1,2)\\cup", 200, "(3,4)"}, {"j", 2000, ""}, {"1", 2000, ""},
        {"1/", 1000, "3"}, {"1e999999", 1, ""}, {"\\binom{99999}{50000}", 1, ""}, {"sin", 600, "x"},
        {"\\begin{pmatrix}", 100, "1"}, {"1&", 1000, ""}, {"x<", 1000, "x"}, {"1:", 1000, "1"},
        {"\\overline{", 200, ""}, {"\\gamma(", 30, "x"}, {"\\max(1,", 40, "1"}, {"\xc2\xbd", 900, ""},
        {"'", 2000, "x"}, {"$", 300000, ""}, {"answer is ", 50000, ""}, {"oxed{", 50000, ""}, {"\\)", 100000, ""},
        {"a, ", 100000, ""}, {"1,111", 60000, ""}, {"#", 100000, ""}, {"is the ans", 20000, ""},
        {"\\begin{", 20000, ""}, {"herefore", 30000, ""}, {"is ", 90000, "statement"},
        {"\\text{1", 9000, ""}, {"1 m and ", 8000, ""}, {"1)", 1, ")"}, {"2 km ", 12000, ""}, {"2 two ", 200, ""},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        hostile_answer x = cases[i];
        CHECK(test_linear(grade_hostile, &x, (size_t)x.n));
    }
}

TEST(memory) {
    fuzz_refuse = 1;
    CHECK(answer_equal("1", 1, "1", 1, 0) == -1);
    CHECK(answer_equal(NULL, 0, "1", 1, 0) == 0); /* nothing to allocate for */
    fuzz_refuse = 0;
    CHECK(answer_equal(NULL, 0, NULL, 0, 0) == 0 && answer_extract(NULL, 0).length == 0);
    CHECK(answer_reference(NULL, 0).length == 0 && answer_flags(NULL, 0) == 0);
    CHECK(sizeof(ans_work) < 600000);
}

/* A percentage and its share agree to three digits: |p/100 - h| <= 0.001 of the larger. */
TEST(percent_tolerance) {
    CHECK(same("50\\%", "0.5", 0) && same("0.5", "50\\%", 0) && same("50", "0.5", 0));
    CHECK(same("50.04\\%", "0.5", 0) && !same("50.06\\%", "0.5", 0));
    CHECK(same("49.96\\%", "0.5", 0) && !same("49.94\\%", "0.5", 0));
    CHECK(same("33.33\\%", "\\frac{1}{3}", 0) && !same("33.2\\%", "\\frac{1}{3}", 0));
    CHECK(!same("100\\%", "1", 0) && !same("300", "3", 0) && !same("5\\%", "0.5", 0) && !same("5\\%", "500", 0));
}

TEST(judge) {
    const char *const question = "Find the roots.";
    const polar_judge ordered = answer_judge(NULL, 0), sets = answer_judge(question, strlen(question));
    const polar_span a = ordered.extract(ordered.user, "so \\boxed{1,2}", 14), b = {"2,1", 3};
    CHECK(a.length == 3 && !ordered.same(ordered.user, a, b) && sets.same(sets.user, a, b) == 1);
}

/* The fuzzer's checks over answers of the tables with bytes changed, moved and removed. */
TEST(fuzz) {
    static const char *const seeds[] = {
        "\\left(-\\infty, \\frac{1}{2}\\right] \\cup \\{3\\}\n(-\\infty,0.5]\\cup[3,3]",
        "x = \\frac{-1 \\pm \\sqrt{13}}{4}\n1,2",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & x^2 \\end{pmatrix}\n1,2,3", "\\sum_{k=0}^{n-1} F_k F_{n-k}\n||x|-|y||",
        "The answer is $3\\frac{1}{2}$ \\text{cm}^2.\n1,000{,}000 or 2e-3",
        "0 < f(x) \\le \\log_2 7\n\\{x | 10^\\circ 30' < x\\}",
    };
    uint64_t state = 11;
    for (int i = 0; i < 3000; i++) {
        const char *seed = seeds[i % COUNT(seeds)];
        uint8_t text[512];
        size_t n = strlen(seed);
        memcpy(text, seed, n);
        for (int k = 0; k < 1 + i % 9; k++) {
            size_t at = next_random(&state) % n, from = next_random(&state) % n, length = next_random(&state) % 12;
            if (next_random(&state) % 3 == 0) text[at] = (uint8_t)next_random(&state);
            else memmove(text + at, text + from, MIN(length, n - MAX(at, from)));
        }
        LLVMFuzzerTestOneInput(text, n);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(naturals), T(functions), T(reader), T(extraction), T(references), T(equal), T(different), T(classes), T(sets),
    T(data_check), T(data_classes), T(data_extract), T(data_gsm8k), T(data_cot), T(data_golds), T(hostile), T(memory),
    T(percent_tolerance), T(judge), T(fuzz),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
