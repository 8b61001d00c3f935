/* All of polar.c, what is static too. `make test` compiles polar.c once for all tests, and POLAR_INSIDE names the
 * declarations then (see inside.awk); without it, a test includes polar.c: cc -I. tests/test_gguf.c -lpthread -lm */
#ifndef INSIDE_H
#define INSIDE_H
#ifdef POLAR_INSIDE
#include POLAR_INSIDE
#else
#define POLAR_INSIDE /* the macros of polar.c stay */
#include "../polar.c"
#endif
#endif
