/* The instructions of AMX that polar.c uses, written in C, for tests on processors that do not have them: polar.c
 * includes this file where POLAR_TILES names it. After Intel's Architecture Instruction Set Extensions
 * Programming Reference: sum[m][n] += sum_k sum_i a[m][4 k + i] w[k][4 n + i]. The shapes must fit, or abort() is called
 * where the processor would raise an exception. */
#ifndef TILES_H
#define TILES_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct tiles_in_c {
    uint8_t rows[8], data[8][16][64];
    int bytes[8];
} tiles_in_c;

static inline void tiles_shapes(tiles_in_c *t, const void *shapes) {
    const uint8_t *s = shapes; /* 64 bytes */
    uint16_t bytes;
    if (s[0] != 1 || s[1] != 0) abort();
    for (int i = 0; i < 8; i++) {
        memcpy(&bytes, s + 16 + 2 * i, 2);
        if (bytes > 64 || s[48 + i] > 16) abort();
        t->bytes[i] = bytes, t->rows[i] = s[48 + i];
    }
    memset(t->data, 0xee, sizeof t->data);
}

static inline void tiles_load(tiles_in_c *t, int i, const void *from, ptrdiff_t stride) {
    if (!t->rows[i]) abort();
    memset(t->data[i], 0, sizeof t->data[i]);
    for (int r = 0; r < t->rows[i]; r++) memcpy(t->data[i][r], (const char *)from + r * stride, (size_t)t->bytes[i]);
}

static inline void tiles_store(const tiles_in_c *t, int i, void *to, ptrdiff_t stride) {
    if (!t->rows[i]) abort();
    for (int r = 0; r < t->rows[i]; r++) memcpy((char *)to + r * stride, t->data[i][r], (size_t)t->bytes[i]);
}

static inline void tiles_dot(tiles_in_c *t, int sum, int a, int w, int with_sign) {
    if (t->bytes[sum] != t->bytes[w] || t->rows[sum] != t->rows[a] || t->bytes[a] != 4 * t->rows[w]) abort();
    for (int m = 0; m < t->rows[sum]; m++)
        for (int n = 0; n < t->bytes[sum] / 4; n++) {
            int32_t s;
            memcpy(&s, &t->data[sum][m][4 * n], 4);
            for (int k = 0; k < t->rows[w]; k++)
                for (int i = 0; i < 4; i++) {
                    const int v = t->data[w][k][4 * n + i];
                    s += (int8_t)t->data[a][m][4 * k + i] * (with_sign ? (int8_t)v : v);
                }
            memcpy(&t->data[sum][m][4 * n], &s, 4);
        }
}

#define TILES tiles_in_c tiles;
#define TILE_SHAPES(shapes) tiles_shapes(&tiles, shapes)
#define TILE_LOAD(tile, from, stride) tiles_load(&tiles, tile, from, stride)
#define TILE_STORE(tile, to, stride) tiles_store(&tiles, tile, to, stride)
#define TILE_ZERO(tile) memset(tiles.data[tile], 0, sizeof tiles.data[tile])
#define TILE_SIGNED(sum, a, w) tiles_dot(&tiles, sum, a, w, 1)
#define TILE_UNSIGNED(sum, a, w) tiles_dot(&tiles, sum, a, w, 0)
#define TILE_END() memset(&tiles, 0, sizeof tiles)
#endif
