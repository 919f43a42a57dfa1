/* Runs of reaction networks, and hops on a ring; mcnn.kinetics.native compiles and calls this. */
#include <math.h>
#include "sampling.h"

static inline double uniform(uint64_t key, uint64_t index) {
    return (double)(random_bits(key, index) >> 11) * 0x1p-53;
}

/* Gillespie's direct method, runs first ... last - 1; returns the most events of a run, capped. */
int64_t ssa(int64_t first, int64_t last, int64_t species, int64_t reactions, int64_t times,
            const int64_t *restrict reactants, const int64_t *restrict changes,
            const double *restrict rates, const int64_t *restrict start,
            const double *restrict time, uint64_t seed, int64_t max_events,
            int64_t *restrict x, double *restrict cumulative, int64_t *restrict counts) {
    const uint64_t key = mix(seed);
    int64_t most = 0;
    for (int64_t run = first; run < last; run++) {
        int64_t *to = counts + run * times * species;
        double clock = 0;
        int64_t looked = 0, event = 0;
        for (int64_t s = 0; s < species; s++) x[s] = start[s];
        for (;; event++) {
            double total = 0;
            for (int64_t r = 0; r < reactions; r++) {
                double a = rates[r];
                for (int64_t s = 0; s < species; s++)
                    for (int64_t taken = 0; taken < reactants[r * species + s]; taken++)
                        a = a * (double)(x[s] - taken);
                total += a > 0 ? a : 0;
                cumulative[r] = total;
            }
            const uint64_t number = ((uint64_t)run << 36) + 2 * (uint64_t)event;
            clock = total > 0 ? clock - log1p(-uniform(key, number)) / total : INFINITY;
            for (; looked < times && time[looked] < clock; looked++)
                for (int64_t s = 0; s < species; s++) to[looked * species + s] = x[s];
            if (looked == times) break;
            if (event == max_events) return max_events + 1;
            const double target = uniform(key, number + 1) * total;
            int64_t chosen = 0;
            while (chosen < reactions - 1 && cumulative[chosen] <= target) chosen++;
            for (int64_t s = 0; s < species; s++) x[s] += changes[chosen * species + s];
        }
        if (event > most) most = event;
    }
    return most;
}

/* How many of the particles of a site go to the right: a bit each, words of 62 bits. */
static inline int32_t rightward(uint32_t number, uint64_t index, uint64_t seed, uint64_t key) {
    int32_t right = 0;
    for (uint64_t word = 0; number > 0; word++) {
        const uint64_t bits = random_bits(word ? mix(seed + word) : key, index);
        const uint32_t here = number < 62 ? number : 62;
        right += __builtin_popcountll(bits & (((uint64_t)1 << here) - 1));
        number -= here;
    }
    return right;
}

/* Let every particle of a ring hop once; from is read, to is written. */
int hop(const int32_t *restrict from, int32_t *restrict to, int64_t sites, int64_t step,
        int64_t kinds, uint64_t seed) {
    const uint64_t key = mix(seed);
    const uint64_t base = (uint64_t)step * (uint64_t)sites;
    for (int64_t i = 0; i < sites; i++) to[i] = 0;
    for (int64_t i = 0; i < sites; i++) {
        const int32_t state = from[i];
        if (!state) continue;
        const int32_t number = state < 0 ? -state : state, sign = state < 0 ? -1 : 1;
        const int32_t right = rightward(number, base + (uint64_t)i, seed, key);
        const int64_t on = step % 2 ? (i + 1 == sites ? 0 : i + 1) : i;
        const int64_t back = step % 2 ? i : (i == 0 ? sites - 1 : i - 1);
        to[on] += sign * right;
        to[back] += sign * (number - right);
    }
    if (kinds == 1)
        for (int64_t i = 0; i < sites; i++) to[i] &= 1;
    return 0;
}
