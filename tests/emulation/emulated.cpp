// The kernels, to be launched from Python through ctypes.
#include "folded.cu"

EMULATED(fold_rows)
EMULATED(scan_folded)
EMULATED(score_put_off)

// What the kernels take of shared memory for a search, for comparison with what the host asks for.
extern "C" int emulated_search_bytes(unsigned threads, int staged) {
    blockDim = {threads, 1, 1};
    return (int)(after_search(staged) - arena);
}
