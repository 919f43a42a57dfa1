/* The loops over edges; mcnn.sparse.backends.c compiles and calls them. */
#include <stdint.h>
#include <string.h>

enum { LANES = 16, AHEAD = 32 };
enum { FAR = 1 << 18, SCATTERED = 1 << 15 };  /* numbers that the nearer caches do not hold */
typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(64)));
#define INLINE static inline __attribute__((always_inline))
#ifdef __AVX512F__
enum { WIDE = 8, HALF = 4 };  /* vectors in a tile: two tiles and a few more stay in registers */
enum { GROUP = 8, PAIR = 2 };  /* units and vectors in a tile of packed blocks */
#define LOADED(v) __asm__("" : "+v"(v))  /* once, instead of by each of those that use it */
#else
enum { WIDE = 2, HALF = 1 };
enum { GROUP = 4, PAIR = 1 };
#define LOADED(v)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

/* Zero in the lanes that are marked; what is not a number stays so. */
INLINE vector unless(lanes marked, vector v) { return (vector)((lanes)v & ~marked); }

/* The sums of sixteen vectors: add pairs half by half until each lane holds one vector's sum. */
INLINE vector totals(vector *d) {
    for (int i = 0; i < 8; i++)
        d[i] = SHUFFLE(d[i], d[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               SHUFFLE(d[i], d[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                       31);
    for (int i = 0; i < 4; i++)
        d[i] = SHUFFLE(d[i], d[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
               SHUFFLE(d[i], d[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        d[i] = SHUFFLE(d[i], d[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               SHUFFLE(d[i], d[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    return SHUFFLE(d[0], d[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           SHUFFLE(d[0], d[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

/* Add the first n sums to those of the edges with these numbers, or if there are none yet, set. */
INLINE void add(vector *dot, const int64_t *number, int n, int more, float *dw) {
    const vector t = totals(dot);
    for (int k = 0; k < n; k++) dw[number[k]] = more ? dw[number[k]] + t[k] : t[k];
}

/* A layer as one side sees it: units that own a sum, and those at the other ends of their edges.
   LISTED: starts and index list the edges of each unit, in the order of their numbers. ORDERED: in
   another order, which lists the numbers. BLOCKS: `here` own units all join the same `there`.
   PACKED: blocks, too, and the rows of units stand block after block. */
enum kind { LISTED, ORDERED, BLOCKS, PACKED };
#define IN_BLOCKS(kind) (kind == BLOCKS || kind == PACKED)

typedef struct {
    const int32_t *starts, *index, *order;
    const int64_t *units, *others;
    int64_t here, there, packed;
} layer;

/* The edges of the unit that comes q-th, its row, and of packed blocks the first row they meet. */
typedef struct {
    int64_t unit, row, n, first, met;
    const int32_t *index;
    const int64_t *others;
} edges;

INLINE edges edges_of(const layer *l, int kind, int64_t q) {
    if (IN_BLOCKS(kind)) {
        const int64_t unit = l->units[q], met = q / l->here * l->there;
        return (edges){unit, kind == PACKED ? q : unit, l->there, 0, met, 0, l->others + met};
    }
    const int64_t first = l->starts[q];
    return (edges){q, q, l->starts[q + 1] - first, first, 0, l->index + first, 0};
}

/* Prefetch: where memory is far, numbers are asked for before they are read or written. */
INLINE void prefetch(const float *p, int64_t n) {
    for (int64_t t = 0; t < n; t += LANES) __builtin_prefetch(p + t);
}

INLINE void prefetch_to_write(float *p, int64_t n) {
    for (int64_t t = 0; t < n; t += LANES) __builtin_prefetch(p + t, 1);
}

/* Prefetch for the next block: the unit at the same place in it, a share of those at other ends. */
#define PREFETCH_NEXT_BLOCK(OWN, OTHER)                                             \
    if (far && kind == BLOCKS && q + l.here < last) {                                   \
        const int64_t unit = l.units[q + l.here];                                   \
        OWN;                                                                        \
        for (int64_t t = q % l.here; t < l.there; t += l.here) {                    \
            const int64_t i = l.others[(q / l.here + 1) * l.there + t];             \
            OTHER;                                                                  \
        }                                                                           \
    }

/* y[i] = sum of w[e] x[j] over edges e from j to i, for a tile of the batch; bias may be null. */
INLINE void sum_tile(const int kind, layer l, const float *restrict x, const float *restrict w,
                     const float *restrict bias, int relu, int64_t first, int64_t last,
                     int64_t batch, int vectors, int far, float *restrict y) {
    const int64_t tile = vectors * LANES, end = IN_BLOCKS(kind) ? 0 : l.starts[last];
    for (int64_t q = first; q < last; q++) {
        const edges s = edges_of(&l, kind, q);
        const float *weight = w + (IN_BLOCKS(kind) ? s.unit * s.n : s.first);
        vector sum[WIDE] = {0};
        PREFETCH_NEXT_BLOCK(
            (prefetch(w + unit * s.n, s.n), prefetch_to_write(y + unit * batch, tile)),
            prefetch(x + i * batch, tile))
        for (int64_t m = 0; m < s.n; m++) {
            const int64_t j = kind == BLOCKS ? s.others[m] : s.index[m];
            const int64_t ahead = s.first + m + AHEAD;
            const vector *row = (const vector *)(x + j * batch);
            if (far && ahead < end) prefetch(x + l.index[ahead] * batch, tile);
            for (int v = 0; v < vectors; v++) sum[v] += weight[m] * row[v];
        }
        for (int v = 0; v < vectors; v++) {
            if (bias) sum[v] += bias[s.unit];
            if (relu) sum[v] = unless(sum[v] < 0, sum[v]);
        }
        memcpy(y + s.row * batch, sum, 64 * vectors);
    }
}

/* The same for packed blocks, a group of units at a time, which share what they read. */
INLINE void sum_packed(layer l, const float *restrict x, const float *restrict w,
                       const float *restrict bias, int relu, int64_t first, int64_t last,
                       int64_t batch, int vectors, const int group, float *restrict y) {
    for (int64_t q = first; q < last; q += group) {
        const float *row = x + q / l.here * l.there * batch, *weight[GROUP];
        vector sum[GROUP][PAIR] = {0};
        for (int u = 0; u < group; u++) weight[u] = w + l.units[q + u] * l.there;
        for (int64_t m = 0; m < l.there; m++, row += batch)
            for (int v = 0; v < vectors; v++) {
                vector r = ((const vector *)row)[v];
                LOADED(r);
                for (int u = 0; u < group; u++) sum[u][v] += weight[u][m] * r;
            }
        for (int u = 0; u < group; u++) {
            for (int v = 0; v < vectors; v++) {
                if (bias) sum[u][v] += bias[l.units[q + u]];
                if (relu) sum[u][v] = unless(sum[u][v] < 0, sum[u][v]);
            }
            memcpy(y + (q + u) * batch, sum[u], 64 * vectors);
        }
    }
}

/* ds[j] = sum of w[e] g[i] and dw[e] = <a[j], g[i]> over edges e between j and i. */
INLINE void grad_tile(const int kind, layer l, const float *a, const float *restrict g,
                      const float *restrict w, int64_t first, int64_t last, int64_t batch,
                      int vectors, int skip, int more, int far, float *ds,
                      float *restrict dw) {
    const int64_t tile = vectors * LANES, end = IN_BLOCKS(kind) ? 0 : l.starts[last];
    const int scattered = kind == ORDERED && end - l.starts[first] > SCATTERED;
    vector dot[LANES] = {0};
    int64_t number[LANES];  /* of the edges whose products wait to be summed */
    int n = 0;
    for (int64_t q = first; q < last; q++) {
        const edges s = edges_of(&l, kind, q);
        const int64_t own_place = IN_BLOCKS(kind) ? q % l.here : 0;
        vector own[WIDE], sum[WIDE] = {0};
        PREFETCH_NEXT_BLOCK(
            (prefetch(a + unit * batch, tile), prefetch_to_write(ds + unit * batch, tile)),
            (prefetch(g + i * batch, tile), prefetch(w + i * l.here, l.here),
             prefetch_to_write(dw + i * l.here, l.here)))
        memcpy(own, a + s.row * batch, 64 * vectors);
        for (int t = 0; t < skip; t++) own[0][t] = 0;  /* columns of the tile before */
        for (int64_t m = 0; m < s.n; m++) {
            const int64_t i = IN_BLOCKS(kind) ? s.others[m] : s.index[m], place = s.first + m;
            const int64_t e = IN_BLOCKS(kind)   ? i * l.here + own_place
                              : kind == ORDERED ? l.order[place]
                                                : place;
            const vector *row = (const vector *)(g + (kind == PACKED ? s.met + m : i) * batch);
            if (far && place + AHEAD < end) prefetch(g + l.index[place + AHEAD] * batch, tile);
            if (scattered && place + AHEAD < end) {
                const int32_t o = l.order[place + AHEAD];
                prefetch(w + o, 1), prefetch_to_write(dw + o, 1);
            }
            vector d = {0};
            for (int v = 0; v < vectors; v++) {
                vector r = row[v];
                LOADED(r);
                if (kind != LISTED) sum[v] += w[e] * r;
                d += own[v] * r;
            }
            dot[n] = d, number[n++] = e;
            if (n == LANES) add(dot, number, LANES, more, dw), n = 0;
        }
        if (kind != LISTED) memcpy(ds + s.row * batch, sum, 64 * vectors);
    }
    add(dot, number, n, more, dw);
}

/* Tiles of the batch; the last one overlaps where the batch is no multiple of a vector. */
#define TILES(TILE)                                                        \
    int64_t c = 0;                                                         \
    for (; c + WIDE * LANES <= batch; c += WIDE * LANES) TILE(WIDE, 0)     \
    for (; c + HALF * LANES <= batch; c += HALF * LANES) TILE(HALF, 0)     \
    for (; c + LANES <= batch; c += LANES) TILE(1, 0)                      \
    if (c < batch) { int skip = c + LANES - batch; c -= skip; TILE(1, skip) } \
    return 0;

int path_sum(const layer *l, const float *x, const float *w, const float *bias, int relu,
             int64_t first, int64_t last, int64_t inputs, int64_t batch, float *y) {
    const int far = inputs * batch > (l->starts ? FAR : FAR / 4);
#define TILE(vectors, skip) \
    sum_tile(KIND, *l, x + c, w, bias, relu, first, last, batch, vectors, far, y + c);
#define KIND BLOCKS
    if (!l->packed && !l->starts) { TILES(TILE) }
#undef KIND
#define KIND LISTED
    if (!l->packed) { TILES(TILE) }
#undef KIND
#undef TILE
#define TILE(vectors)                                                                           \
    if (l->here % GROUP)                                                                       \
        sum_packed(*l, x + c, w, bias, relu, first, last, batch, vectors, 1, y + c);           \
    else sum_packed(*l, x + c, w, bias, relu, first, last, batch, vectors, GROUP, y + c);
    int64_t c = 0;
    for (; c + PAIR * LANES <= batch; c += PAIR * LANES) { TILE(PAIR) }
    for (; c < batch; c += LANES) {
        if (c + LANES > batch) c = batch - LANES;
        TILE(1)
    }
    return 0;
#undef TILE
}

/* The gradients with respect to the rows a, and to the weights; of listed edges to these alone. */
int path_grads(const layer *l, const float *a, const float *g, const float *w, int more,
               int64_t first, int64_t last, int64_t inputs, int64_t batch, float *ds, float *dw) {
    const int far = inputs * batch > (l->starts ? FAR : FAR / 4);
#define TILE(vectors, skip)                                                                        \
    grad_tile(KIND, *l, a + c, g + c, w, first, last, batch, vectors, skip, more || c, far, ds + c,   \
              dw);
#define KIND PACKED
    if (l->packed) { TILES(TILE) }
#undef KIND
#define KIND BLOCKS
    if (!l->starts) { TILES(TILE) }
#undef KIND
#define KIND ORDERED
    if (l->order) { TILES(TILE) }
#undef KIND
#define KIND LISTED
    TILES(TILE)
}

/* Back through a rectifier: g where y is positive, and the sums of its rows. */
int path_rectified(const float *restrict g, const float *restrict y, int64_t first, int64_t last,
                   int64_t batch, float *restrict passed, float *restrict sums) {
    for (int64_t i = first; i < last; i++) {
        vector sum[2] = {0};
        float rest = 0;
        int64_t t = i * batch;
        const int64_t end = t + batch;
        for (; t + LANES <= end; t += LANES) {
            const vector p = unless(*(const vector *)(y + t) <= 0, *(const vector *)(g + t));
            memcpy(passed + t, &p, 64);
            sum[t / LANES % 2] += p;
        }
        for (; t < end; t++) rest += passed[t] = y[t] <= 0 ? 0 : g[t];
        sum[0] += sum[1];
        for (int k = 0; k < LANES; k++) rest += sum[0][k];
        sums[i] = rest;
    }
    return 0;
}

/* Sixteen rows of sixteen become columns: pairs of neighbours, then pairs of pairs, and so on. */
INLINE void transpose(vector *r) {
    vector t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = SHUFFLE(r[i], r[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
        t[i + 1] = SHUFFLE(r[i], r[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                           31);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int k = 0; k < 2; k++) {
            const vector a = t[i + k], b = t[i + k + 2];
            r[i + 2 * k] = SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            r[i + 2 * k + 1] = SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30,
                                       31);
        }
    /* r[4 i + k] has in its lane q, of four numbers, column 4 q + k of the rows 4 i ... */
    for (int i = 0; i < LANES; i += 8)
        for (int k = 0; k < 4; k++) {
            const vector a = r[i + k], b = r[i + k + 4];
            t[i + k] = SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
            t[i + k + 4] = SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30,
                                   31);
        }
    for (int k = 0; k < 8; k++) {
        const vector a = t[k], b = t[k + 8];
        r[k] = SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        r[k + 8] = SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
}

/* A batch that lies example by example: its numbers, [batch, units], rows of units for a part of it,
   [units, part], and where the row of each unit is; null for those in order. */
typedef struct {
    float *examples, *rows;
    const int64_t *places;
    int64_t units;
} side;

enum { IN, OUT, STRIP = 32 };

/* Copy a part, from example c on, of units first ... last to their rows, or back (OUT), in squares of
   sixteen by sixteen; the last ones overlap. A strip of examples is asked for two squares ahead. */
INLINE void turn(const int way, side s, int64_t first, int64_t last, int64_t c, int64_t part) {
    for (int64_t strip = 0; strip < part; strip += STRIP)
        for (int64_t j = first; j < last; j += LANES) {
            if (j + LANES > last) j = last - LANES;
            for (int64_t t = strip; t < part && t < strip + STRIP; t += LANES) {
                if (t + LANES > part) t = part - LANES;
                vector square[LANES], *row[LANES];
                for (int k = 0; k < LANES; k++)
                    row[k] = (vector *)(s.rows + (s.places ? s.places[j + k] : j + k) * part + t);
                float *corner = s.examples + (c + t) * s.units + j;
                if (j + 3 * LANES <= last)
                    for (int k = 0; k < LANES; k++)
                        __builtin_prefetch(corner + k * s.units + 2 * LANES, way == OUT, 2);
                for (int k = 0; k < LANES; k++)
                    square[k] = way == IN ? *(vector *)(corner + k * s.units) : *row[k];
                transpose(square);
                for (int k = 0; k < LANES; k++)
                    *(way == IN ? row[k] : (vector *)(corner + k * s.units)) = square[k];
            }
        }
}

static void turn_any(int way, const side *s, int64_t first, int64_t last, int64_t c, int64_t part) {
    if (last - first < LANES) {
        for (int64_t t = 0; t < part; t++)
            for (int64_t j = first; j < last; j++) {
                float *example = s->examples + (c + t) * s->units + j;
                float *row = s->rows + (s->places ? s->places[j] : j) * part + t;
                if (way == IN) *row = *example;
                else *example = *row;
            }
    } else if (way == IN) turn(IN, *s, first, last, c, part);
    else turn(OUT, *s, first, last, c, part);
}

/* The same of batches that lie example by example, part after part: each is turned to rows, which
   stay in the cache, and results are turned back. Parts are of whole tiles, so that sums come in the
   same order. All steps at once do all units; a single step, of a batch that is one part, does a
   range of them: threads go from step to step together. */
enum { TURN_IN = 1, TURN_IN_OTHER = 2, SUM = 4, TURN_OUT = 8, ALL = 15 };

#define PARTS(STEPS)                                                       \
    for (int64_t c = 0, n; c < batch; c += n) {                            \
        n = c + part + LANES > batch ? batch - c : part;                   \
        STEPS                                                              \
    }                                                                      \
    return 0;
#define UNITS(s) steps == ALL ? 0 : first, steps == ALL ? (s)->units : last

int path_sum_turned(const layer *l, const side *x, const side *y, const float *w,
                    const float *bias, int relu, int64_t batch, int64_t part, int steps,
                    int64_t first, int64_t last) {
    PARTS(if (steps & TURN_IN) turn_any(IN, x, UNITS(x), c, n);
          if (steps & SUM) path_sum(l, x->rows, w, bias, relu, UNITS(y), x->units, n, y->rows);
          if (steps & TURN_OUT) turn_any(OUT, y, UNITS(y), c, n);)
}

int path_grads_turned(const layer *l, const side *a, const side *g, const side *ds, const float *w,
                      float *dw, int64_t batch, int64_t part, int steps, int64_t first,
                      int64_t last) {
    PARTS(if (steps & TURN_IN) turn_any(IN, a, UNITS(a), c, n);
          if (steps & TURN_IN_OTHER) turn_any(IN, g, UNITS(g), c, n);
          if (steps & SUM) path_grads(l, a->rows, g->rows, w, c > 0, UNITS(a), g->units, n,
                                      ds->rows, dw);
          if (steps & TURN_OUT && ds->examples) turn_any(OUT, ds, UNITS(ds), c, n);)
}
