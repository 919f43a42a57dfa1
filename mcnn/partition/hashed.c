/* Hashed partitions; mcnn.partition.native compiles and calls this. */
#include "sampling.h"

static inline uint32_t hash(uint32_t z) {
    z = (z ^ z >> 16) * 0x7FEB352Du;
    z = (z ^ z >> 15) * 0x846CA68Bu;
    return z ^ z >> 16;
}

static inline uint32_t key(uint32_t number, uint64_t word) {
    return hash(hash(number ^ (uint32_t)(word >> 32)) ^ (uint32_t)word ^ 0x80000000u);
}

/* Drop part step % parts of cycle step / parts from the examples first ... last - 1. */
int drop(const float *restrict x, int64_t first, int64_t last, int64_t units, int64_t parts,
         uint64_t step, uint64_t seed, uint32_t *restrict keys, float *restrict y) {
    const uint64_t cycle = step / parts, part = step % parts, all = (uint64_t)1 << 32;
    const uint64_t examples = random_bits(mix(seed), 2 * cycle);
    const uint64_t word = random_bits(mix(seed), 2 * cycle + 1);
    const uint64_t low = (part * all + parts - 1) / parts;
    const uint64_t high = ((part + 1) * all + parts - 1) / parts;
    /* The least bits, 2**31 as they are signed, stand for 0. */
    const uint32_t lowest = (uint32_t)low - 0x80000000u, span = (uint32_t)(high - 1 - low);
    const float scale = (double)parts / (double)(parts - 1);
    for (int64_t i = 0; i < units; i++) keys[i] = key((uint32_t)i, word);
    for (int64_t j = first; j < last; j++) {
        const uint32_t example = key((uint32_t)j, examples);
        const float *restrict from_row = x + j * units;
        float *restrict to_row = y + j * units;
        for (int64_t i = 0; i < units; i++)
            to_row[i] = hash(example ^ keys[i]) - lowest <= span ? 0 : from_row[i] * scale;
    }
    return 0;
}
