// Upper bounds as a dense half-precision product. The columns are folded into a few thousand buckets; a bucket of
// a row holds the Euclidean norm of its weights there, rounded up. By Cauchy and Schwarz, bucket by bucket, the
// product of two folded rows is at least the sum of |x_c| |y_c|, and so at least their similarity, whatever the signs.
#include "search.cuh"

const float SMALLEST_FOLDED = 0.0078125f;  // 2^-7: products are normal numbers, so that no bound vanishes

// The smallest half that is at least `value`, for values from 2^-14 to 2, as bits.
__device__ inline u16 half_at_least(float value) {
    u32 bits = __float_as_uint(value);
    return (u16)(((bits - (112u << 23)) >> 13) + ((bits & 0x1fffu) != 0));
}

// One block for each row: row `blockIdx.x` of `folded` is its `n_buckets` halves.
extern "C" __global__ void fold_rows(const i64* indptr, const int* columns, const float* weights, const int* buckets,
                                     int n_buckets, u16* folded) {
    float* squares = (float*)arena;
    i64 first = indptr[blockIdx.x];
    i64 end = indptr[blockIdx.x + 1];
    for (int bucket = threadIdx.x; bucket < n_buckets; bucket += blockDim.x) squares[bucket] = 0.0f;
    __syncthreads();
    for (i64 place = first + threadIdx.x; place < end; place += blockDim.x) {
        atomicAdd(&squares[buckets[columns[place]]], __fmul_ru(weights[place], weights[place]));
    }
    __syncthreads();
    // n additions, each rounded to nearest, lose less than n 2^-24 of the sum; twice that for the rest.
    float lift = __fadd_ru(1.0f, __fmul_ru((float)(end - first), 1.0f / (1 << 23)));
    u16* row = folded + (i64)blockIdx.x * n_buckets;
    for (int bucket = threadIdx.x; bucket < n_buckets; bucket += blockDim.x) {
        float norm = __fsqrt_ru(__fmul_ru(squares[bucket], lift));
        row[bucket] = squares[bucket] == 0.0f ? 0 : half_at_least(norm > SMALLEST_FOLDED ? norm : SMALLEST_FOLDED);
    }
}

// One block for each query row, whose bounds are row `blockIdx.x` of `bounds`, `n` halves for the candidates from
// `first` on. `n` is a multiple of 8.
extern "C" __global__ void __launch_bounds__(256, 5)
    scan_folded(const u16* bounds, int n, int first, float kept, int* segments, u32* used, int capacity,
                const i64* query_indptr, const int* query_columns, const float* query_weights,
                const i64* other_indptr, const int* other_columns, const float* other_weights, i64 others_start,
                i64 self_offset, float* similarities, i64* neighbors, int k, int staged, u64* scored) {
    Rows queries = {query_indptr, query_columns, query_weights};
    Rows others = {other_indptr, other_columns, other_weights};
    Search search =
        begin_search(blockIdx.x, queries, others, others_start, self_offset, similarities, neighbors, k, staged);
    if (search.length == 0) return;
    Bounds own = {bounds + (i64)blockIdx.x * n, n, first, kept};
    PutOff later = {segments, used, capacity};
    scan(search, own, later);
    report(search, scored);
}

// Scores what `scan_folded` put off, any number of blocks together. `locks` holds a 0 for each query row.
extern "C" __global__ void score_put_off(const int* segments, const u32* used, int capacity, int* locks,
                                         const i64* query_indptr, const int* query_columns,
                                         const float* query_weights, const i64* other_indptr,
                                         const int* other_columns, const float* other_weights, i64 others_start,
                                         i64 self_offset, float* similarities, i64* neighbors, int k, int staged,
                                         u64* scored) {
    Rows queries = {query_indptr, query_columns, query_weights};
    Rows others = {other_indptr, other_columns, other_weights};
    int n = (int)min(*used, (u32)capacity);
    for (int i = blockIdx.x; i < n; i += gridDim.x) {
        const int* segment = segments + (i64)i * SEGMENT;
        int row = segment[0];
        int count = segment[1];
        if (count == 0) continue;
        Search search =
            begin_search(row, queries, others, others_start, self_offset, similarities, neighbors, k, staged);
        for (int j = threadIdx.x; j < count; j += blockDim.x) search.buffer[j] = segment[2 + j];
        if (threadIdx.x == 0) search.progress->candidates = count;
        __syncthreads();
        score_candidates(search, locks + row);
        report(search, scored);
        __syncthreads();
    }
}
