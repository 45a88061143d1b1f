// One thread block looks for the neighbours of one query row, given half-precision upper bounds of the row's
// similarities with many candidates.
//
// The bounds are scanned against the row's threshold, and what reaches it is kept in a buffer of candidates. A full
// buffer is emptied: its candidates are put off to a launch of their own or, where that has no room for them, scored
// exactly and inserted into the row's top k, which raises the threshold. So no number of candidates can overflow
// anything.
//
// The source needs no header of CUDA, so that NVRTC compiles it anywhere.
#ifndef SEARCH_CUH
#define SEARCH_CUH

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

extern __shared__ __align__(16) u8 arena[];

const int WARP = 32;
const u32 ALL_LANES = 0xffffffffu;
const int BOUNDS_PER_THREAD = 8;  // one load of 16 bytes
const int SPARE_CANDIDATES = 512;
const int HISTOGRAM_BINS = 2048;
const int BIN_SHIFT = 4;  // bits of a half that a bin leaves out
const u32 ABOVE_ALL_BOUNDS = 0x10000u;
const u32 NO_PLACE = 0xffffffffu;
const int UNROLLED = 4;  // groups of entries that a warp loads at a time

__device__ inline float minus_infinity() { return __int_as_float(0xff800000); }

// CSR rows; columns ascend within a row.
struct Rows {
    const i64* indptr;
    const int* columns;
    const float* weights;
};

// Lives in shared memory.
struct Progress {
    float threshold;  // similarity in the last slot of the row's top k
    int candidates;   // in the buffer
    u32 pivot;
    int has_table;
    u64 scored;
};

// One query row against a block of candidates. Every thread holds the same values.
struct Search {
    int row;  // of the query rows
    const int* columns;
    const float* weights;
    int length;
    Rows others;
    i64 others_start;  // global number of the first candidate
    i64 own;           // the candidate that is the query row itself, or a number that none has
    volatile float* similarities;  // volatile: other blocks may write them, see score_candidates
    volatile i64* neighbors;
    int k;
    Progress* progress;
    u32* table;      // places of the row's entries by hash of their column; null for a row that is not staged
    u32 table_mask;  // number of its slots less 1
    int* buffer;
    float* scores;
    u32* histogram;  // shares its memory with the buffer, and is used only while that is empty
};

__device__ inline int lane_of_thread() { return threadIdx.x % WARP; }

// Candidates that one step of a scan may add, beyond those that make the buffer count as full.
__device__ inline int buffer_capacity() { return blockDim.x * BOUNDS_PER_THREAD + SPARE_CANDIDATES; }

// Lays out shared memory as `search_shared_bytes` of the host counts it, and stages row `row` there if it has at most
// `staged` entries. `staged` is a power of two, at least 4.
__device__ inline Search begin_search(i64 row, Rows queries, Rows others, i64 others_start, i64 self_offset,
                                      float* similarities, i64* neighbors, int k, int staged) {
    i64 first = queries.indptr[row];
    Search search;
    search.row = (int)row;
    search.length = (int)(queries.indptr[row + 1] - first);
    search.columns = queries.columns + first;
    search.weights = queries.weights + first;
    search.others = others;
    search.others_start = others_start;
    search.own = row + self_offset;
    search.similarities = similarities + row * k;
    search.neighbors = neighbors + row * k;
    search.k = k;
    search.progress = (Progress*)arena;
    int* columns = (int*)(arena + sizeof(Progress));
    float* weights = (float*)(columns + staged);
    search.table = search.length <= staged ? (u32*)(weights + staged) : 0;
    search.table_mask = 2 * staged - 1;
    search.buffer = (int*)(weights + staged) + 2 * staged;
    search.scores = (float*)(search.buffer + buffer_capacity());
    search.histogram = (u32*)search.buffer;
    if (search.length <= staged) {
        for (int i = threadIdx.x; i < search.length; i += blockDim.x) {
            columns[i] = search.columns[i];
            weights[i] = search.weights[i];
        }
        search.columns = columns;
        search.weights = weights;
    }
    if (threadIdx.x == 0) {
        search.progress->threshold = search.similarities[k - 1];
        search.progress->candidates = 0;
        search.progress->has_table = 0;
        search.progress->scored = 0;
    }
    __syncthreads();
    return search;
}

// First slot in which a column is looked for, by Fibonacci hashing.
__device__ inline u32 slot_of(const Search& search, int column) {
    return ((u32)column * 2654435769u >> 12) & search.table_mask;
}

// Enters the row's columns into the table, unless that is done. Called by all threads, behind a barrier.
__device__ inline void make_table(const Search& search) {
    if (search.table == 0 || search.progress->has_table) return;
    for (u32 slot = threadIdx.x; slot <= search.table_mask; slot += blockDim.x) search.table[slot] = NO_PLACE;
    __syncthreads();
    for (int place = threadIdx.x; place < search.length; place += blockDim.x) {
        u32 slot = slot_of(search, search.columns[place]);
        while (atomicCAS(&search.table[slot], NO_PLACE, (u32)place) != NO_PLACE) {
            slot = (slot + 1) & search.table_mask;
        }
    }
    if (threadIdx.x == 0) search.progress->has_table = 1;
    __syncthreads();
}

// Place of `column` in the query row, or -1.
__device__ inline int find_column(const Search& search, int column) {
    if (search.table != 0) {
        u32 slot = slot_of(search, column);
        u32 place = search.table[slot];
        while (place != NO_PLACE && search.columns[place] != column) {
            slot = (slot + 1) & search.table_mask;
            place = search.table[slot];
        }
        return (int)place;
    }
    int low = 0;
    int high = search.length;
    while (low < high) {
        int middle = (low + high) / 2;
        if (search.columns[middle] < column) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < search.length && search.columns[low] == column ? low : -1;
}

// Product of the weights at one place of a candidate, and whether the query row has that column at all. The
// product of two float32 is exact in float64, so contraction to a fused multiply-add could not change a sum.
__device__ inline bool product_at(const Search& search, i64 place, i64 end, double* product) {
    *product = 0.0;
    if (place >= end) return false;
    int found = find_column(search, search.others.columns[place]);
    if (found < 0) return false;
    *product = __dmul_rn((double)search.weights[found], (double)search.others.weights[place]);
    return true;
}

// Whether a similarity may reach the threshold, given its terms summed in any order. Two orders of n terms
// differ by at most n 2^-52 times the sum of their absolute values, which for rows of unit norm (within 0.001)
// and fewer than 2^21 entries is below 2^-30; rounding to float32 moves a similarity by at most 2^-24 of itself.
__device__ inline bool may_reach(double unordered, float threshold) {
    return unordered >= (double)threshold - (fabs((double)threshold) * (1.0 / (1 << 23)) + 1.0 / (1 << 29));
}

// The similarity of a candidate, computed by one warp: products in ascending column order, summed in float64,
// rounded once. Minus infinity if no column is shared or the threshold is surely not reached.
__device__ inline float similarity_of(const Search& search, int candidate, float threshold) {
    i64 first = search.others.indptr[candidate];
    i64 end = search.others.indptr[candidate + 1];
    double product;
    double unordered = 0.0;
    bool shares = false;
    for (i64 base = first + lane_of_thread(); base < end; base += UNROLLED * WARP) {
        int columns[UNROLLED];
        for (int step = 0; step < UNROLLED; step++) {
            i64 place = base + step * WARP;
            columns[step] = place < end ? search.others.columns[place] : -1;
        }
        for (int step = 0; step < UNROLLED; step++) {
            int found = columns[step] < 0 ? -1 : find_column(search, columns[step]);
            if (found < 0) continue;
            shares = true;
            unordered += (double)search.weights[found] * (double)search.others.weights[base + step * WARP];
        }
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        unordered += __shfl_xor_sync(ALL_LANES, unordered, distance);
    }
    if (!__any_sync(ALL_LANES, shares) || !may_reach(unordered, threshold)) return minus_infinity();
    double sum = 0.0;
    for (i64 base = first; base < end; base += WARP) {
        u32 lanes = __ballot_sync(ALL_LANES, product_at(search, base + lane_of_thread(), end, &product));
        for (; lanes != 0; lanes &= lanes - 1) {
            sum = __dadd_rn(sum, __shfl_sync(ALL_LANES, product, __ffs(lanes) - 1));
        }
    }
    return __double2float_rn(sum);
}

// Inserts a neighbour into the row's top k, in the total order of TopK; one that is there changes nothing.
// Called by one warp.
__device__ inline void insert_neighbor(const Search& search, float similarity, i64 row) {
    int before = 0;
    for (int base = 0; base < search.k; base += WARP) {
        int slot = base + lane_of_thread();
        float other = slot < search.k ? search.similarities[slot] : minus_infinity();
        i64 other_row = slot < search.k ? search.neighbors[slot] : -1;
        bool tied = other == similarity;
        if (__any_sync(ALL_LANES, tied && other_row == row)) return;
        before += __popc(__ballot_sync(ALL_LANES, other > similarity || (tied && other_row < row)));
    }
    if (before == search.k) return;
    // From the last slots to the first, so that no slot is overwritten before it was moved.
    for (int base = (search.k - 1) / WARP * WARP; base + WARP > before; base -= WARP) {
        int slot = base + lane_of_thread();
        bool moves = slot > before && slot < search.k;
        float other = moves ? search.similarities[slot - 1] : 0.0f;
        i64 other_row = moves ? search.neighbors[slot - 1] : 0;
        __syncwarp();
        if (moves) {
            search.similarities[slot] = other;
            search.neighbors[slot] = other_row;
        }
        __syncwarp();
    }
    if (lane_of_thread() == 0) {
        search.similarities[before] = similarity;
        search.neighbors[before] = row;
    }
    __syncwarp();
}

// Waits until no other warp inserts into the row. Called by one warp; `lock` is 0 while nobody holds it.
__device__ inline void acquire(int* lock) {
    for (bool held = false; !__any_sync(ALL_LANES, held);) {
        if (lane_of_thread() == 0) held = atomicCAS(lock, 0, 1) == 0;
    }
    __syncwarp();
    __threadfence();
}

__device__ inline void release(int* lock) {
    __threadfence();
    __syncwarp();
    if (lane_of_thread() == 0) atomicExch(lock, 0);
}

// Inserts those of the first `count` scores that reach the row's top k. Called by one warp.
__device__ inline void insert_scored(const Search& search, int count) {
    for (int base = 0; base < count; base += WARP) {
        int i = base + lane_of_thread();
        float score = i < count ? search.scores[i] : minus_infinity();
        float last = search.similarities[search.k - 1];
        u32 lanes = __ballot_sync(ALL_LANES, score > minus_infinity() && score >= last);
        for (; lanes != 0; lanes &= lanes - 1) {
            int lane = __ffs(lanes) - 1;
            int candidate = search.buffer[base + lane];
            insert_neighbor(search, __shfl_sync(ALL_LANES, score, lane), search.others_start + candidate);
        }
    }
}

// Scores the candidates in the buffer and empties it. Called by all threads, behind a barrier. Where several blocks
// may search for the row at a time, they share a `lock`; otherwise that is null.
__device__ inline void score_candidates(const Search& search, int* lock) {
    int count = search.progress->candidates;
    float threshold = search.progress->threshold;
    __syncthreads();  // nobody goes on to find other candidates before all have read how many these are
    if (count == 0) return;
    make_table(search);
    for (int i = threadIdx.x / WARP; i < count; i += blockDim.x / WARP) {
        float similarity = similarity_of(search, search.buffer[i], threshold);
        if (lane_of_thread() == 0) search.scores[i] = similarity;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        if (lock != 0) acquire(lock);
        insert_scored(search, count);
        if (lock != 0) release(lock);
        if (threadIdx.x == 0) {
            search.progress->threshold = search.similarities[search.k - 1];
            search.progress->candidates = 0;
            search.progress->scored += count;
        }
    }
    __syncthreads();
}

// Room for candidates whose scoring is put off to a launch of its own, `score_put_off`, in which a row with very
// many of them is spread over the whole device. A segment holds its row, how many candidates follow, and these.
struct PutOff {
    int* segments;
    u32* used;     // how many segments were asked for, whether there was room for them or not
    int capacity;  // how many there are
};

const int SEGMENT = 128;
const int SEGMENT_CANDIDATES = SEGMENT - 2;

// Moves the candidates in the buffer into segments; false if these have no room. Called by all threads, behind a
// barrier.
__device__ inline bool put_off(const Search& search, const PutOff& later) {
    if (later.capacity == 0) return false;
    int count = search.progress->candidates;
    int needed = (count + SEGMENT_CANDIDATES - 1) / SEGMENT_CANDIDATES;
    if (threadIdx.x == 0) search.progress->pivot = atomicAdd(later.used, (u32)needed);
    __syncthreads();
    u32 first = search.progress->pivot;
    bool fits = first + needed <= (u32)later.capacity;
    for (int i = threadIdx.x; i < needed; i += blockDim.x) {
        if (first + i >= (u32)later.capacity) break;
        int* segment = later.segments + (i64)(first + i) * SEGMENT;
        segment[0] = search.row;
        segment[1] = fits ? min(SEGMENT_CANDIDATES, count - i * SEGMENT_CANDIDATES) : 0;
    }
    for (int i = threadIdx.x; fits && i < count; i += blockDim.x) {
        i64 segment = first + i / SEGMENT_CANDIDATES;
        later.segments[segment * SEGMENT + 2 + i % SEGMENT_CANDIDATES] = search.buffer[i];
    }
    __syncthreads();
    if (fits && threadIdx.x == 0) search.progress->candidates = 0;
    __syncthreads();
    return fits;
}

// Which of the two bounds in a word are at least `wanted` and below `below`, as bits.
__device__ inline u32 hits_in(u32 word, u32 wanted, u32 below) {
    u32 low = word & 0xffffu;
    u32 high = word >> 16;
    return (u32)(low >= wanted && low < below) | (u32)(high >= wanted && high < below) << 1;
}

// The bounds of a row: `n` halves, a multiple of 8, with 16-byte alignment. That of candidate `first + i` stands at i.
// Halves that are not negative are ordered like their bits, which is how they are compared.
struct Bounds {
    const u16* halves;
    int n;
    int first;
    float kept;  // share of a similarity that rounding leaves at least
};

// Bits of the largest half that no similarity of at least `threshold` can stay below.
__device__ inline u32 lowest_bound(float threshold, float kept) {
    float bound = threshold * kept;
    if (!(bound >= 6.2e-5f)) return 1;
    return (__float_as_uint(bound) - (112u << 23)) >> 13;
}

__device__ inline uint4 eight_bounds(const Bounds& bounds, int place) {
    uint4 nothing = {0, 0, 0, 0};
    return place < bounds.n ? *(const uint4*)(bounds.halves + place) : nothing;
}

// Scores, or puts off, every candidate whose bound is at least `lowest` and at least what the threshold asks for, but
// below `below`.
__device__ inline void scan_range(const Search& search, const Bounds& bounds, const PutOff& later, u32 lowest,
                                  u32 below) {
    int n = bounds.n;
    u32 wanted = max(lowest, lowest_bound(search.progress->threshold, bounds.kept));
    int step = blockDim.x * BOUNDS_PER_THREAD;
    int place = threadIdx.x * BOUNDS_PER_THREAD;
    uint4 words = eight_bounds(bounds, place);
    for (int base = 0; base < n; base += step, place += step) {
        // What the next turn needs is on its way while this one waits for its votes.
        uint4 ahead = eight_bounds(bounds, place + step);
        bool filled = false;
        if (place < n) {
            u32 hits = hits_in(words.x, wanted, below) | hits_in(words.y, wanted, below) << 2 |
                       hits_in(words.z, wanted, below) << 4 | hits_in(words.w, wanted, below) << 6;
            for (; hits != 0; hits &= hits - 1) {
                int candidate = bounds.first + place + __ffs(hits) - 1;
                if (candidate == search.own) continue;
                int slot = atomicAdd(&search.progress->candidates, 1);
                search.buffer[slot] = candidate;
                filled |= slot + 1 >= SPARE_CANDIDATES;
            }
        }
        // The vote is also the barrier that makes the buffer complete, and all threads get the same answer.
        if (__syncthreads_or(filled)) {
            // Without a threshold the first candidates are scored at once, so that there is one.
            bool knows = search.progress->threshold > minus_infinity();
            if (!knows || !put_off(search, later)) score_candidates(search, 0);
            wanted = max(lowest, lowest_bound(search.progress->threshold, bounds.kept));
        }
        words = ahead;
    }
    score_candidates(search, 0);
}

// A bound that about `count` candidates reach: at least so many, unless fewer have a bound above 0.
__device__ inline u32 bound_of_best(const Search& search, const Bounds& bounds, u32 count) {
    for (int bin = threadIdx.x; bin < HISTOGRAM_BINS; bin += blockDim.x) search.histogram[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < bounds.n; i += blockDim.x) {
        u32 bound = bounds.halves[i];
        if (bound != 0) atomicAdd(&search.histogram[min(bound >> BIN_SHIFT, (u32)HISTOGRAM_BINS - 1)], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 seen = 0;
        int bin = HISTOGRAM_BINS;
        while (bin > 0 && seen < count) seen += search.histogram[--bin];
        search.progress->pivot = max((u32)bin << BIN_SHIFT, 1u);
    }
    __syncthreads();
    return search.progress->pivot;
}

// Scores all candidates that may belong to the row's top k. While that has empty slots, the candidates with the
// best bounds come first, so that the others meet a threshold.
__device__ inline void scan(const Search& search, const Bounds& bounds, const PutOff& later) {
    u32 below = ABOVE_ALL_BOUNDS;
    if (search.progress->threshold == minus_infinity()) {
        u32 pivot = bound_of_best(search, bounds, 2 * search.k + 16);
        scan_range(search, bounds, later, pivot, below);
        below = pivot;
    }
    scan_range(search, bounds, later, 1u, below);
}

// Adds the candidates that the block has scored to `scored`.
__device__ inline void report(const Search& search, u64* scored) {
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(scored, search.progress->scored);
}

#endif
