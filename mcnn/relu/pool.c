/* Max pooling by ReLUs, a plane of an image at a time; mcnn.relu.native compiles and calls this.

   The operations and their order are those of mcnn.relu.pool with mcnn.relu.maxima, and of what
   PyTorch differentiates there. Along a row, places with the same remainder modulo the stride lie
   side by side ("phases"), so that a tap is a vector whatever the stride is. */
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TAPS 32
#define LANES 2048 /* numbers of a block of rows, whose tree stays in the cache */
#define INLINE static inline __attribute__((always_inline))

typedef struct { int64_t size, kernel, stride, padding, outputs; } Axis;
typedef struct { int a[TAPS], b[TAPS], steps, root; } Tree; /* step i makes node kernel + i */

INLINE float relu(float z) { return z < 0 ? 0 : z; } /* NaN stays */
INLINE float capped(float z, float most) { return z > most ? most : z; }
INLINE float clip(float z, float most) { return capped(z < -most ? -most : z, most); }
INLINE float passed(float gradient, float result) { return result <= 0 ? 0 : gradient; }
INLINE int64_t inside(const Axis *axis, int64_t place) {
    return place < 0 ? 0 : place >= axis->size ? axis->size - 1 : place;
}
INLINE int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }

/* mcnn.relu.maxima.exact_finite */
static void exact(const float *x, const float *y, float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float up = capped(relu(y[i] - x[i]), FLT_MAX);
        float near = clip(x[i] + up, FLT_MAX);
        near = near + relu(y[i] - near);
        const float below = relu(y[i] - near), above = capped(relu(near - y[i]), FLT_MAX);
        out[i] = near + below - (above - relu(above - up));
    }
}

/* mcnn.relu.maxima.skip */
static void skip(const float *x, const float *y, float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = x[i] + relu(y[i] - x[i]);
}

/* The derivative of exact: its operations backwards, gradients summed as autograd does. */
static void exact_back(const float *x, const float *y, const float *g, float *restrict to_x,
                       float *restrict to_y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float lift = relu(y[i] - x[i]), up = capped(lift, FLT_MAX);
        const float sum = x[i] + up, first = clip(sum, FLT_MAX);
        const float more = relu(y[i] - first), near = first + more;
        const float below = relu(y[i] - near), over = relu(near - y[i]);
        const float above = capped(over, FLT_MAX), gate = relu(above - up);
        const float g_gate = passed(g[i], gate);
        const float g_above = -g[i] + g_gate;
        const float g_over = passed(over <= FLT_MAX ? g_above : 0, over);
        const float g_below = passed(g[i], below);
        const float g_near = g[i] + g_over - g_below;
        const float g_more = passed(g_near, more);
        const float g_first = g_near - g_more;
        const float g_sum = sum >= -FLT_MAX & sum <= FLT_MAX ? g_first : 0;
        const float g_up = -g_gate + g_sum;
        const float g_lift = passed(lift <= FLT_MAX ? g_up : 0, lift);
        to_y[i] = -g_over + g_below + g_more + g_lift;
        to_x[i] = g_sum - g_lift;
    }
}

static Tree plan(int64_t kernel) {
    Tree tree = {.steps = 0};
    int row[TAPS], n = kernel;
    for (int i = 0; i < n; i++) row[i] = i;
    while (n > 1) {
        int m = 0;
        for (int i = 0; i + 1 < n; i += 2) {
            tree.a[tree.steps] = row[i];
            tree.b[tree.steps] = row[i + 1];
            row[m++] = kernel + tree.steps++;
        }
        if (n % 2) row[m++] = row[n - 1];
        n = m;
    }
    tree.root = row[0];
    return tree;
}

static void climb(const Tree *tree, int64_t kernel, float **nodes, int64_t n, int ends) {
    for (int i = 0; i < tree->steps; i++)
        (ends ? skip : exact)(nodes[tree->a[i]], nodes[tree->b[i]], nodes[kernel + i], n);
}

static void descend(const Tree *tree, int64_t kernel, float **nodes, float **grads, int64_t n) {
    for (int i = tree->steps - 1; i >= 0; i--) {
        const int a = tree->a[i], b = tree->b[i];
        exact_back(nodes[a], nodes[b], grads[kernel + i], grads[a], grads[b], n);
    }
}

/* Places in a phase of a row. */
INLINE int64_t pitch(const Axis *axis) {
    return axis->outputs + (axis->kernel - 1) / axis->stride;
}

INLINE float part(float x, int ends) {
    const float finite = clip(x, FLT_MAX);
    return ends ? clip(x - finite, 1) : finite;
}

/* Clip rows and sort them into phases; beyond the edges the places at the edges repeat. */
static void split(const float *restrict x, const Axis *axis, int64_t rows, int ends,
                  float *restrict phases) {
    const int64_t s = axis->stride, p = axis->padding, places = pitch(axis), lanes = rows * places;
    const int64_t kept = s < axis->kernel ? s : axis->kernel;
    int64_t low = ceil_div(p, s), high = (axis->size + p - kept) / s + 1;
    if (axis->size + p < kept || high < low) high = low;
    if (high > places) high = places;
    if (low > places) low = high = places;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * axis->size;
        float *to = phases + r * places;
        if (kept == 2 && s == 2) {
            float *restrict odd = to + lanes;
            const float *pairs = row - p;
            for (int64_t q = low; q < high; q++) {
                to[q] = part(pairs[2 * q], ends);
                odd[q] = part(pairs[2 * q + 1], ends);
            }
        } else
            for (int64_t k = 0; k < kept; k++)
                for (int64_t q = low; q < high; q++)
                    to[k * lanes + q] = part(row[q * s + k - p], ends);
        for (int64_t k = 0; k < kept; k++) {
            for (int64_t q = 0; q < low; q++)
                to[k * lanes + q] = part(row[inside(axis, q * s + k - p)], ends);
            for (int64_t q = high; q < places; q++)
                to[k * lanes + q] = part(row[inside(axis, q * s + k - p)], ends);
        }
    }
}

/* Outputs whose tap j falls on a place, or is moved there. */
INLINE void readers(const Axis *axis, int64_t place, int64_t j, int64_t *first, int64_t *last) {
    const int64_t o = place + axis->padding - j, s = axis->stride;
    *first = place == 0 || o < 0 ? 0 : ceil_div(o, s);
    *last = place == axis->size - 1 ? axis->outputs - 1 : o < 0 ? -1 : o / s;
    if (*last >= axis->outputs) *last = axis->outputs - 1;
}

INLINE int beyond(const Axis *axis) {
    return (axis->outputs - 1) * axis->stride - axis->padding + axis->kernel > axis->size;
}

/* What sums of gradients start from: PyTorch adds +0 for each tap that misses a place, or that is
   moved; where none does, -0 stays -0. */
INLINE float start(const Axis *axis, int64_t place) {
    if (axis->padding || beyond(axis)) return 0;
    for (int64_t j = 0; j < axis->kernel; j++) {
        int64_t first, last;
        readers(axis, place, j, &first, &last);
        if (first > last) return 0;
    }
    return -0.0f;
}

/* Sum the gradients of taps, last to first, [taps][outputs], at an edge of a row. */
static float at_edge(const Axis *axis, int64_t place, float **taps, int64_t offset) {
    float sum = 0;
    for (int64_t j = axis->kernel - 1; j >= 0; j--) {
        int64_t first, last;
        readers(axis, place, j, &first, &last);
        float tap = 0;
        for (int64_t o = first; o <= last; o++) tap += taps[j][offset + o];
        sum += tap;
    }
    return sum;
}

/* As split, backwards: the gradients of taps go to their places. */
static void merge(const float *restrict x, const Axis *axis, int64_t rows, float **taps,
                  float *restrict sums, float *restrict to) {
    const int64_t s = axis->stride, p = axis->padding, places = pitch(axis), lanes = rows * places;
    const int64_t kept = s < axis->kernel ? s : axis->kernel, size = axis->size;
    const int whole = !p && !beyond(axis) && (s == 1 || axis->kernel == 1);
    memset(sums, 0, kept * lanes * sizeof(float));
    if (whole) /* as start says */
        for (int64_t r = 0; r < rows; r++)
            for (int64_t q = axis->kernel - 1; q < axis->outputs; q++) sums[r * places + q] = -0.0f;
    for (int64_t j = axis->kernel - 1; j >= 0; j--)
        for (int64_t r = 0; r < rows; r++) {
            const float *from = taps[j] + r * places;
            float *restrict sum = sums + j % s * lanes + r * places + j / s;
            for (int64_t o = 0; o < axis->outputs; o++) sum[o] += from[o];
        }
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * size, *even = sums + r * places, *odd = even + lanes;
        float *restrict out = to + r * size;
        memset(out, 0, size * sizeof(float));
        int64_t low = 0;
        if (kept == 2 && s == 2) {
            low = (p + 1) / 2;
            int64_t high = (size + p) / 2;
            if (high > places) high = places;
            float *restrict pairs = out - p;
            for (int64_t q = low; q < high; q++) {
                pairs[2 * q] = even[q];
                pairs[2 * q + 1] = odd[q];
            }
            if (high > low) low = high; /* what is before lies on the edge, see below */
        }
        for (int64_t k = 0; k < kept; k++)
            for (int64_t q = low; q < places && q * s + k - p < size; q++)
                if (q * s + k - p >= 0) out[q * s + k - p] = even[k * lanes + q];
        if (p) out[0] = at_edge(axis, 0, taps, r * places);
        if (beyond(axis)) out[size - 1] = at_edge(axis, size - 1, taps, r * places);
        for (int64_t i = 0; i < size; i++)
            out[i] = row[i] >= -FLT_MAX & row[i] <= FLT_MAX ? out[i] : 0;
    }
}

INLINE int64_t block(const Axis *axis) {
    const int64_t rows = LANES / pitch(axis);
    return rows > 0 ? rows : 1;
}

/* What a plane needs: memory, cut into pieces. */
typedef struct {
    float *phases, *inner, *middle, *inner_down, *sums, *grads, *to_middle, *to_rows;
    float *memory;
} Room;

static int rent(Room *room, const Axis *down, const Axis *along, int back) {
    const int64_t places = pitch(along), lanes = block(along) * places;
    const int64_t height = down->size * places, slack = 2 * TAPS;
    const int64_t sizes[] = {
        along->kernel * lanes + slack, along->kernel * lanes + slack, height + slack,
        down->kernel * places + slack, back * (along->kernel * lanes + slack),
        back * (2 * along->kernel * lanes + slack), back * (height + slack),
        back * ((down->outputs + 1) * down->kernel + 1) * places + slack,
    };
    float **pieces[] = {&room->phases, &room->inner, &room->middle, &room->inner_down,
                        &room->sums, &room->grads, &room->to_middle, &room->to_rows};
    int64_t total = 0;
    for (int i = 0; i < 8; i++) total += sizes[i];
    room->memory = calloc(total, sizeof(float));
    if (!room->memory) return 1;
    float *next = room->memory;
    for (int i = 0; i < 8; i++) *pieces[i] = next, next += sizes[i];
    return 0;
}

/* The nodes of the tree along rows: taps are places in the phases. */
static void nodes_along(const Axis *along, int64_t lanes, const Room *room, float **nodes) {
    for (int64_t j = 0; j < along->kernel; j++)
        nodes[j] = room->phases + j % along->stride * lanes + j / along->stride;
    for (int64_t i = 0; i + 1 < along->kernel; i++)
        nodes[along->kernel + i] = room->inner + i * lanes;
}

/* The maxima along the rows of a plane, to room->middle. */
static void reduce_along(const float *x, const Axis *down, const Axis *along, const Tree *tree,
                         int ends, Room *room) {
    const int64_t places = pitch(along), most = block(along);
    for (int64_t r = 0; r < down->size; r += most) {
        const int64_t rows = r + most < down->size ? most : down->size - r, lanes = rows * places;
        float *nodes[2 * TAPS];
        split(x + r * along->size, along, rows, ends, room->phases);
        nodes_along(along, lanes, room, nodes);
        if (tree->steps) nodes[tree->root] = room->middle + r * places;
        climb(tree, along->kernel, nodes, lanes, ends);
        if (!tree->steps) memcpy(room->middle + r * places, nodes[0], lanes * sizeof(float));
    }
}

static void nodes_down(const Axis *down, int64_t o, int64_t places, const Room *room,
                       float **nodes) {
    for (int64_t j = 0; j < down->kernel; j++)
        nodes[j] = room->middle + inside(down, o * down->stride - down->padding + j) * places;
    for (int64_t i = 0; i + 1 < down->kernel; i++)
        nodes[down->kernel + i] = room->inner_down + i * places;
}

/* Add to y, which is zero or the finite maxima, the maxima of a part times a factor. */
static void reduce(const float *x, const Axis *down, const Axis *along, const Tree *tree_down,
                   const Tree *tree_along, int ends, Room *room, float *restrict y) {
    const int64_t places = pitch(along);
    reduce_along(x, down, along, tree_along, ends, room);
    for (int64_t o = 0; o < down->outputs; o++) {
        float *nodes[2 * TAPS], *restrict out = y + o * along->outputs;
        nodes_down(down, o, places, room, nodes);
        climb(tree_down, down->kernel, nodes, along->outputs, ends);
        const float *top = nodes[tree_down->root];
        if (ends)
            for (int64_t i = 0; i < along->outputs; i++) out[i] = out[i] + top[i] * FLT_MAX;
        else
            for (int64_t i = 0; i < along->outputs; i++) out[i] = top[i] + 0.0f;
    }
}

static int has_ends(const float *x, int64_t n) {
    int found = 0;
    for (int64_t i = 0; i < n; i++) found |= !(x[i] >= -FLT_MAX & x[i] <= FLT_MAX);
    return found;
}

/* Pool the planes first ... last - 1; where all numbers are finite, their codes are zero. */
int pool(const float *x, int64_t first, int64_t last, const Axis *down, const Axis *along,
         float *y) {
    const Tree tree_down = plan(down->kernel), tree_along = plan(along->kernel);
    const int64_t here = down->size * along->size, there = down->outputs * along->outputs;
    Room room;
    if (rent(&room, down, along, 0)) return 1;
    for (int64_t c = first; c < last; c++)
        for (int ends = 0; ends <= has_ends(x + c * here, here); ends++)
            reduce(x + c * here, down, along, &tree_down, &tree_along, ends, &room, y + c * there);
    free(room.memory);
    return 0;
}

/* Gradients of the maxima along rows from those of the outputs, room->to_middle. */
static void back_down(const float *g, const Axis *down, const Axis *along, const Tree *tree,
                      Room *room) {
    const int64_t places = pitch(along), n = along->outputs, k = down->kernel;
    float *inner = room->to_rows + down->outputs * k * places; /* of nodes that are no taps */
    for (int64_t o = 0; o < down->outputs; o++) {
        float *nodes[2 * TAPS], *grads[2 * TAPS];
        nodes_down(down, o, places, room, nodes);
        for (int64_t j = 0; j < k; j++) grads[j] = room->to_rows + (o * k + j) * places;
        for (int64_t i = 0; i + 1 < k; i++) grads[k + i] = inner + i * places;
        memcpy(grads[tree->root], g + o * n, n * sizeof(float));
        climb(tree, k, nodes, n, 0);
        descend(tree, k, nodes, grads, n);
    }
    float *restrict tap = inner;
    for (int64_t h = 0; h < down->size; h++) {
        float *restrict sum = room->to_middle + h * places;
        const float zero = start(down, h);
        for (int64_t i = 0; i < n; i++) sum[i] = zero;
        for (int64_t j = k - 1; j >= 0; j--) {
            int64_t from, to;
            readers(down, h, j, &from, &to);
            const float *one = room->to_rows + (from * k + j) * places;
            if (from < to) {
                memset(tap, 0, n * sizeof(float));
                for (int64_t o = from; o <= to; o++) {
                    const float *more = room->to_rows + (o * k + j) * places;
                    for (int64_t i = 0; i < n; i++) tap[i] += more[i];
                }
                one = tap;
            }
            if (from <= to)
                for (int64_t i = 0; i < n; i++) sum[i] += one[i];
        }
    }
}

/* Gradients of the planes first ... last - 1 from those of the outputs. */
int pool_back(const float *x, const float *g, int64_t first, int64_t last, const Axis *down,
              const Axis *along, float *to) {
    const Tree tree_down = plan(down->kernel), tree_along = plan(along->kernel);
    const int64_t here = down->size * along->size, there = down->outputs * along->outputs;
    const int64_t places = pitch(along), most = block(along), k = along->kernel;
    Room room;
    if (rent(&room, down, along, 1)) return 1;
    for (int64_t c = first; c < last; c++) {
        const float *plane = x + c * here;
        reduce_along(plane, down, along, &tree_along, 0, &room);
        back_down(g + c * there, down, along, &tree_down, &room);
        for (int64_t r = 0; r < down->size; r += most) {
            const int64_t rows = r + most < down->size ? most : down->size - r;
            const int64_t lanes = rows * places;
            float *nodes[2 * TAPS], *grads[2 * TAPS];
            nodes_along(along, lanes, &room, nodes);
            for (int64_t i = 0; i < 2 * k - 1; i++) grads[i] = room.grads + i * lanes;
            grads[tree_along.root] = room.to_middle + r * places;
            if (down->size > most) { /* else the tree is there still */
                split(plane + r * along->size, along, rows, 0, room.phases);
                climb(&tree_along, k, nodes, lanes, 0);
            }
            descend(&tree_along, k, nodes, grads, lanes);
            merge(plane + r * along->size, along, rows, grads, room.sums,
                  to + c * here + r * along->size);
        }
    }
    free(room.memory);
    return 0;
}
