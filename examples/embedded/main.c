/* Runs device.c on a host: prints the tokens and the memory that it took. Usage: embedded [PROGRAM]. */
#include "device.h"
#include <stdio.h>

static unsigned char block[64 * 1024];

int main(int argc, char **argv) {
    const int32_t prompt[] = {39, 68, 75, 75, 78};
    int32_t tokens[16];
    const int n = (int)(sizeof tokens / sizeof *tokens);
    device_memory memory = {0, 0};
    polar_error error;
    if (device_generate(prompt, (int)(sizeof prompt / sizeof *prompt), argc > 1 ? argv[1] : "", tokens, n, block,
                        sizeof block, &memory, &error)) {
        fprintf(stderr, "embedded: %s\n", error.message);
        return 1;
    }
    for (int i = 0; i < n; i++) printf("%d%c", (int)tokens[i], i + 1 < n ? ' ' : '\n');
    printf("memory: %u bytes for the model, %u in all\n", (unsigned)memory.model, (unsigned)memory.peak);
    return 0;
}
