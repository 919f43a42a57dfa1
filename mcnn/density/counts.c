/* Counts of samples; mcnn.density.native compiles and calls this. */
#include <math.h>
#include <string.h>

#include "sampling.h"

static double uniform(uint64_t key, uint64_t index) {
    return (double)(int64_t)(random_bits(key, index) >> 11) * 0x1p-53;
}

/* How many samples lie below the edges; u is a number, a table, or computed for each stratum. */
#define BELOW(u)                                             \
    for (int64_t i = 0; i < n; i++) {                        \
        double y = (double)edge[i] * s / total;              \
        y = y > s || edge[i] == sum ? s : y;                 \
        int32_t k = (int32_t)y;                              \
        below[i] = k + (u < y - (double)k);                  \
    }

/* Count for rows of n weights, of which w holds the bits; 1 if a weight is not finite. */
int scan(const int32_t *restrict w, int64_t rows, int64_t n, int64_t samples, int jittered,
         uint64_t seed, uint64_t first, int bits, double *restrict spare, int32_t *restrict out) {
    const uint64_t key = mix(seed);
    const double s = (double)samples;
    int64_t *restrict edge = (int64_t *)spare;
    double *restrict table = spare + n;
    int32_t *restrict below = (int32_t *)(table + n) + 1;
    below[-1] = 0;
    for (uint64_t row = first; row < first + (uint64_t)rows; row++, w += n, out += n) {
        int32_t top = 0;  /* the bits of magnitudes are in order */
        for (int64_t i = 0; i < n; i++) {
            int32_t magnitude = w[i] & 0x7FFFFFFF;
            top = magnitude > top ? magnitude : top;
        }
        if (top >= 0x7F800000) return 1;
        if (top == 0) { memset(out, 0, 4 * n); continue; }

        float largest;
        memcpy(&largest, &top, 4);
        int exponent;
        frexp(largest, &exponent);
        const double scale = ldexp(1, bits - exponent);
        for (int64_t i = 0; i < n; i++) {
            float weight;
            memcpy(&weight, &w[i], 4);
            /* Adding 2**52 rounds to integers, which the low bits of the sum then are. */
            double x = fabs((double)weight * scale) + 0x1p52;
            memcpy(&edge[i], &x, 8);
            edge[i] -= 0x4330000000000000;
        }
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++) edge[i] = sum += edge[i];

        const double total = (double)sum;
        const uint64_t start = row * (uint64_t)samples;
        if (!jittered) {
            const double offset = uniform(key, row);
            BELOW(offset)
        } else if (samples < n) {  /* fewer strata than edges: each offset is computed once */
            for (int64_t k = 0; k < samples; k++) table[k] = uniform(key, start + (uint64_t)k);
            table[samples] = 1;
            BELOW(table[k])
        } else {
            BELOW(uniform(key, start + (uint64_t)k))
        }
        for (int64_t i = 0; i < n; i++) {
            int32_t count = below[i] - below[i - 1], sign = w[i] >> 31;  /* 0 or -1 */
            out[i] = (count ^ sign) - sign;
        }
    }
    return 0;
}
