/* Random numbers of mcnn.sampling, bit for bit: output number `index` of SplitMix64. */
#include <stdint.h>

static inline uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* As hash_bits, of which `mix(seed)` is the key; zero, which would be mixed to zero, moves away. */
static inline uint64_t random_bits(uint64_t key, uint64_t index) {
    const uint64_t z = index * 0x9E3779B97F4A7C15u + key;
    return mix(z ? z : 0xD1B54A32D192ED03u);
}
