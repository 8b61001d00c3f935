/* Threads: every task of a pool is done once, and there are as many threads as cores that this process may use. */
#include "inside.h"
#include "test.h"

enum { MOST = 300 };

static void count(void *context, int index, int worker) {
    unsigned char *done = context;
    done[index]++;
    if (worker < 0 || worker >= 4) done[index] = 100;
}

/* Many short pieces of work, so that threads come late, of different sizes. */
TEST(pool) {
    unsigned char done[MOST + 1];
    polar_pool *p;
    polar_runner r;
    CHECK(polar_pool_create(&p, 4, NULL, NULL) == POLAR_OK);
    r = polar_pool_runner(p);
    for (int round = 0; round < test_repeat(20000); round++) {
        const int n = round * 37 % MOST;
        int wrong = 0;
        memset(done, 0, sizeof done);
        r.run(r.user, n, count, done);
        for (int i = 0; i <= MOST; i++) wrong += done[i] != (i < n);
        CHECK(!wrong);
    }
    polar_pool_free(p);
}

#ifdef POLAR_NO_THREADS
TEST(cores) {
    CHECK(polar_cpu_count() == 1);
}
#elif defined(__linux__)
/* The kernel's own word for it: Cpus_allowed in /proc, hexadecimal digits and commas. */
static int cores_allowed(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[4096];
    int n = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "Cpus_allowed:", 13))
            for (const char *p = line + 13; *p; p++) {
                const char digit[2] = {*p, 0};
                for (long bits = strtol(digit, NULL, 16); bits; bits >>= 1) n += (int)(bits & 1);
            }
    if (f) fclose(f);
    return n;
}

TEST(cores) {
    static unsigned char all[1024], one[1024];
    const int n = cores_allowed();
    long bytes = syscall(SYS_sched_getaffinity, 0, sizeof all, all);
    if (!n || bytes <= 0) {
        SKIP("this system does not tell its cores");
        return;
    }
    CHECK(polar_cpu_count() == n);
    for (int i = 0; i < bytes; i++) /* the lowest bit of a byte is kept, wherever it is */
        if (all[i]) {
            one[i] = (unsigned char)(all[i] & -all[i]);
            break;
        }
    if (syscall(SYS_sched_setaffinity, 0, (size_t)bytes, one)) {
        SKIP("the affinity mask cannot be set");
        return;
    }
    CHECK(polar_cpu_count() == 1);
    syscall(SYS_sched_setaffinity, 0, (size_t)bytes, all);
    CHECK(polar_cpu_count() == n);
}
#elif defined(_WIN32)
TEST(cores) {
    DWORD_PTR mine, all;
    CHECK(GetProcessAffinityMask(GetCurrentProcess(), &mine, &all));
    CHECK(SetProcessAffinityMask(GetCurrentProcess(), 1));
    CHECK(polar_cpu_count() == 1);
    CHECK(SetProcessAffinityMask(GetCurrentProcess(), mine));
    CHECK(polar_cpu_count() >= 1);
}
#else
TEST(cores) {
    CHECK(polar_cpu_count() >= 1);
}
#endif

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(pool), T(cores),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
