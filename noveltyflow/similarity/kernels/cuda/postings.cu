// Upper bounds from posting lists. The candidates are cut into slabs; a block adds the products of its query row to
// one 16-bit accumulator for each candidate of a slab, in shared memory. Weights and products are fixed-point
// numbers rounded up, so that an accumulator is at least the sum of |x_c| |y_c| over the columns that were added.
//
// The most frequent columns, the head, are left out: what they can add to a similarity is at most the norm of the
// row's head times the largest norm of a candidate, and the threshold is lowered by as much.
#include "search.cuh"

const int LEVELS = 64;
const int GROUP = 8;             // threads that share a short posting list
const u32 LONG_LIST = 128;       // postings that a whole warp shares
const int LONGEST_ROW = 16384;   // a longer row could overflow an accumulator
const float WEIGHT_UNITS = 65000.0f;      // fixed-point weight of 1; the norm of a row may be 1.001
const float UNIT = 32768.0f;              // fixed-point product of 1
const float PRODUCT_FACTOR = 0.50412308f; // at least UNIT / WEIGHT_UNITS

struct FixedBounds {
    float head;  // upper bound of what the columns left out can add

    __device__ int bin_shift() const { return 5; }

    __device__ u32 lowest(float threshold) const {
        double bound = ((double)threshold * (1.0 - 1.0 / (1 << 23)) - (double)head) * UNIT;
        return bound < 1.0 ? 1 : (u32)(bound < 65535.0 ? bound : 65535.0);
    }
};

// Counts the postings of column c in slab s at `starts[s * n_features + c]`. One warp for each row.
extern "C" __global__ void count_postings(const i64* indptr, const int* columns, int n_rows, int n_features,
                                          int slab_rows, u32* starts) {
    i64 row = (i64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= n_rows) return;
    u32* slab = starts + row / slab_rows * n_features;
    for (i64 place = indptr[row] + lane_of_thread(); place < indptr[row + 1]; place += WARP) {
        atomicAdd(&slab[columns[place]], 1u);
    }
}

// Writes the postings, row in the slab and weight, moving each of `ends` from a list's end to its start. The order
// within a list is left to chance, and does not matter to sums of integers.
extern "C" __global__ void fill_postings(const i64* indptr, const int* columns, const float* weights, int n_rows,
                                         int n_features, int slab_rows, u32* ends, u32* postings) {
    i64 row = (i64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= n_rows) return;
    u32* slab = ends + row / slab_rows * n_features;
    for (i64 place = indptr[row] + lane_of_thread(); place < indptr[row + 1]; place += WARP) {
        u32 weight = max(__float2uint_ru(__fmul_ru(fabsf(weights[place]), WEIGHT_UNITS)), 1u);
        u32 at = atomicSub(&slab[columns[place]], 1u) - 1u;
        postings[at] = (u32)(row % slab_rows) | weight << 16;
    }
}

// The head of a row: its columns of `level` and above. `squares` are sums of squared weights by level.
struct Head {
    int level;
    float bound;
};

// The largest head whose bound is at most `share` of the threshold, and which leaves a whole unit to the tail.
__device__ inline Head choose_head(const float* squares, int length, float norm, float threshold, float share) {
    Head head = {LEVELS, 0.0f};
    float sum = 0.0f;
    for (int level = LEVELS - 1; level >= 0; level--) {
        // Rounding of the sums by level, as in fold_rows.
        float lift = __fadd_ru(1.0f, __fmul_ru((float)length, 1.0f / (1 << 23)));
        sum = __fadd_ru(sum, __fmul_ru(squares[level], lift));
        float bound = __fmul_ru(__fsqrt_ru(sum), norm);
        if (!(bound <= threshold * share && (threshold - bound) * UNIT >= 2.0f)) break;
        head.level = level;
        head.bound = bound;
    }
    return head;
}

__device__ inline int level_of(const Search& search, const u8* staged_levels, const u8* levels, int i) {
    return staged_levels ? staged_levels[i] : levels[search.columns[i]];
}

// Adds the postings of the row's tail to the accumulators: lists longer than LONG_LIST if `are_long`, else the others.
__device__ inline u64 add_lists(const Search& search, const u32* starts, const u32* postings, const u8* staged_levels,
                                const u8* levels, int head_level, bool are_long, u32* accumulators) {
    int members = are_long ? WARP : GROUP;
    int member = threadIdx.x % members;
    u64 products = 0;
    for (int i = threadIdx.x / members; i < search.length; i += blockDim.x / members) {
        if (level_of(search, staged_levels, levels, i) >= head_level) continue;
        u32 start = starts[search.columns[i]];
        u32 end = starts[search.columns[i] + 1];
        if ((end - start > LONG_LIST) != are_long) continue;
        float factor = __fmul_ru(fabsf(search.weights[i]), PRODUCT_FACTOR);
        for (u32 place = start + member; place < end; place += members) {
            u32 posting = postings[place];
            u32 row = posting & 0xffffu;
            u32 product = max(__float2uint_ru(__fmul_ru(factor, (float)(posting >> 16))), 1u);
            atomicAdd(&accumulators[row / 2], product << (row % 2 * 16));
            products++;
        }
    }
    return products;
}

__device__ inline void count_products(const Search& search, u64 products) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        products += __shfl_xor_sync(ALL_LANES, products, distance);
    }
    if (lane_of_thread() == 0) atomicAdd(&search.progress->products, products);
}

// One block for each query row. `starts` has n_slabs * n_features + 1 entries; `slab_rows` is even, a multiple of 8
// and at most 65,536; `other_norm` is at least the norm of every candidate.
extern "C" __global__ void search_postings(const u32* starts, const u32* postings, const u8* levels, int n_features,
                                           int slab_rows, int n_others, float other_norm, float head_share,
                                           const i64* query_indptr, const int* query_columns,
                                           const float* query_weights, const i64* other_indptr,
                                           const int* other_columns, const float* other_weights, i64 others_start,
                                           i64 self_offset, float* similarities, i64* neighbors, int k, int staged,
                                           u64* work) {
    Rows queries = {query_indptr, query_columns, query_weights};
    Rows others = {other_indptr, other_columns, other_weights};
    Search search =
        begin_search(blockIdx.x, queries, others, others_start, self_offset, similarities, neighbors, k, staged);
    if (search.length == 0) return;

    float* squares = (float*)after_search(staged);
    u8* staged_levels = (u8*)(squares + LEVELS);
    u32* accumulators = (u32*)(staged_levels + staged + 12);  // staged + 12 is a multiple of 4; aligned below
    accumulators = (u32*)(((u64)accumulators + 15) / 16 * 16);
    bool is_staged = search.length <= staged;
    for (int level = threadIdx.x; level < LEVELS; level += blockDim.x) squares[level] = 0.0f;
    __syncthreads();
    for (int i = threadIdx.x; i < search.length; i += blockDim.x) {
        u8 level = levels[search.columns[i]];
        if (is_staged) staged_levels[i] = level;
        atomicAdd(&squares[level], __fmul_ru(search.weights[i], search.weights[i]));
    }
    __syncthreads();

    int n_slabs = (n_others + slab_rows - 1) / slab_rows;
    // The row's own slab first: its best neighbours mostly stand near it.
    i64 nearest = search.own / slab_rows;
    int first_slab = search.own < 0 ? 0 : nearest < n_slabs ? (int)nearest : n_slabs - 1;
    bool accumulates = search.length <= LONGEST_ROW;
    u64 products = 0;
    for (int turn = 0; turn < n_slabs; turn++) {
        int slab = (first_slab + turn) % n_slabs;
        int first = slab * slab_rows;
        int n = min(slab_rows, n_others - first);
        int padded = (n + 7) / 8 * 8;
        Head head = choose_head(squares, search.length, other_norm, search.progress->threshold, head_share);
        // Where nothing is accumulated every candidate has the highest bound.
        u32 empty = accumulates ? 0u : 0xffffffffu;
        for (int i = threadIdx.x; i < padded / 2; i += blockDim.x) {
            accumulators[i] = 2 * i + 1 < n ? empty : 2 * i < n ? empty & 0xffffu : 0u;
        }
        __syncthreads();
        if (accumulates) {
            const u32* lists = starts + (i64)slab * n_features;
            const u8* near_levels = is_staged ? staged_levels : 0;
            products += add_lists(search, lists, postings, near_levels, levels, head.level, false, accumulators);
            products += add_lists(search, lists, postings, near_levels, levels, head.level, true, accumulators);
        }
        __syncthreads();
        FixedBounds kind = {accumulates ? head.bound : 0.0f};
        PutOff nowhere = {0, 0, 0};
        scan(search, kind, nowhere, (const u16*)accumulators, padded, first);
    }
    count_products(search, products);
    report(search, work);
}
