/* Prints a file as a constant array of C: make_array FILE > model.h */
#include <stdio.h>

int main(int argc, char **argv) {
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    unsigned long n = 0;
    int c;
    if (!f) {
        fprintf(stderr, argc == 2 ? "make_array: %s cannot be read\n" : "usage: make_array FILE > model.h\n", argv[1]);
        return argc == 2 ? 1 : 2;
    }
    printf("static const unsigned char model_bytes[] = {");
    for (; (c = getc(f)) != EOF; n++) printf("%s%d,", n % 24 ? "" : "\n", c);
    printf("\n};\nstatic const size_t model_size = %lu;\n", n);
    fclose(f);
    return 0;
}
