// CUDA on a CPU, as far as this project's kernels use it: compile with
//   g++ -std=c++17 -include cuda_emulation.h -x c++ kernel.cu
// Every thread of a block is a coroutine; a barrier, vote or shuffle hands the processor to the next one. One block
// runs at a time. What a real device leaves undefined is made to fail: shared memory starts as noise, barriers that
// some thread never meets end the program, and the order of the threads between barriers can be turned round.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

struct Place { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

static Place threadIdx, blockIdx, blockDim, gridDim;
alignas(16) unsigned char arena[256 * 1024];

namespace emulation {

const unsigned kWarp = 32;
const unsigned char kNoise = 0xa5;
const size_t kStack = 128 * 1024;
enum State { kReady, kAtBlock, kAtWarp, kDone };

struct Thread {
    ucontext_t context;
    jmp_buf resume;  // a jump costs a fraction of swapcontext, which asks the kernel for signal masks
    bool started;
    State state;
    std::vector<char> stack;
};

static std::vector<Thread> threads;
static ucontext_t scheduler;
static jmp_buf back;
static unsigned running;
static void (*body)();
static uint64_t slots[64][kWarp];  // what lanes exchange, one line for each warp
static int block_vote, block_result;
static int order;

inline void wait(State state) {
    threads[running].state = state;
    if (_setjmp(threads[running].resume) == 0) _longjmp(back, 1);
}

inline void entry() {
    body();
    threads[running].state = kDone;
    _longjmp(back, 1);
}

// Lets thread `running` run until it waits or is done.
inline void go_on() {
    Thread& thread = threads[running];
    if (_setjmp(back) != 0) return;
    if (thread.started) _longjmp(thread.resume, 1);
    thread.started = true;
    setcontext(&thread.context);
}

// Threads `first` to `last` go on if all of them that are not done wait at the same kind of barrier.
inline bool release(unsigned first, unsigned last, State state) {
    bool any = false;
    for (unsigned i = first; i < last; i++) {
        if (threads[i].state == kDone) continue;
        if (threads[i].state != state) return false;
        any = true;
    }
    for (unsigned i = first; i < last; i++) {
        if (threads[i].state == state) threads[i].state = kReady;
    }
    return any;
}

inline bool release_all() {
    unsigned n = blockDim.x;
    bool any = false;
    for (unsigned first = 0; first < n; first += kWarp) any |= release(first, std::min(first + kWarp, n), kAtWarp);
    if (!any && release(0, n, kAtBlock)) {
        block_result = block_vote;
        block_vote = 0;
        any = true;
    }
    return any;
}

inline void run_block(unsigned shared) {
    unsigned n = blockDim.x;
    std::memset(arena, kNoise, sizeof arena);
    block_vote = 0;
    threads.resize(n);
    for (Thread& thread : threads) {
        thread.state = kReady;
        thread.started = false;
        thread.stack.resize(kStack);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = kStack;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, entry, 0);
    }
    do {
        for (unsigned i = 0; i < n; i++) {
            running = order ? n - 1 - i : i;
            if (threads[running].state != kReady) continue;
            threadIdx = {running, 0, 0};
            go_on();
        }
    } while (release_all());
    for (const Thread& thread : threads) {
        if (thread.state != kDone) {
            std::fprintf(stderr, "a thread waits at a barrier that others never meet\n");
            std::abort();
        }
    }
    for (size_t i = shared; i < sizeof arena; i++) {
        if (arena[i] != kNoise) {
            std::fprintf(stderr, "a thread wrote beyond the %u bytes of shared memory\n", shared);
            std::abort();
        }
    }
}

inline unsigned warp() { return threadIdx.x / kWarp; }
inline unsigned lane() { return threadIdx.x % kWarp; }
inline unsigned lanes() { return std::min(kWarp, blockDim.x - warp() * kWarp); }

template <class T>
T exchange(T value, unsigned source) {
    static_assert(sizeof(T) <= 8);
    std::memcpy(&slots[warp()][lane()], &value, sizeof value);
    wait(kAtWarp);
    T result;
    std::memcpy(&result, &slots[warp()][source % kWarp], sizeof result);
    wait(kAtWarp);
    return result;
}

inline unsigned ballot(bool vote) {
    slots[warp()][lane()] = vote;
    wait(kAtWarp);
    unsigned result = 0;
    for (unsigned i = 0; i < lanes(); i++) result |= (unsigned)(slots[warp()][i] != 0) << i;
    wait(kAtWarp);
    return result;
}

// One launch; arguments are given by their addresses, as in cudaLaunchKernel.
template <class... Parameters, size_t... Numbers>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<Numbers...>) {
    kernel(*(std::remove_reference_t<Parameters>*)arguments[Numbers]...);
}

template <auto kernel, class... Parameters>
void launch(void (*)(Parameters...), unsigned blocks, unsigned block_threads, unsigned shared, int thread_order,
            void** arguments) {
    static void** given;
    given = arguments;
    gridDim = {blocks, 1, 1};
    blockDim = {block_threads, 1, 1};
    order = thread_order;
    body = [] { call(kernel, given, std::index_sequence_for<Parameters...>()); };
    for (unsigned block = 0; block < blocks; block++) {
        blockIdx = {block, 0, 0};
        run_block(shared);
    }
}

// The smallest float that is at least `value + rest`, where `rest` is what `value` lost by rounding.
inline float up(double value, double rest) {
    float nearest = (float)value;
    bool below = (double)nearest < value || ((double)nearest == value && rest > 0.0);
    return below ? std::nextafter(nearest, INFINITY) : nearest;
}

}  // namespace emulation

// Makes `emulate_NAME`, through which a kernel can be launched from outside.
#define EMULATED(name)                                                                                  \
    extern "C" void emulate_##name(unsigned blocks, unsigned threads, unsigned shared, int order,       \
                                   void** arguments) {                                                  \
        emulation::launch<name>(name, blocks, threads, shared, order, arguments);                       \
    }

inline void __syncthreads() { emulation::wait(emulation::kAtBlock); }
inline void __syncwarp() { emulation::wait(emulation::kAtWarp); }
inline int __syncthreads_or(int vote) {
    emulation::block_vote |= vote != 0;
    emulation::wait(emulation::kAtBlock);
    return emulation::block_result;
}
inline unsigned __ballot_sync(unsigned, bool vote) { return emulation::ballot(vote); }
inline int __any_sync(unsigned, bool vote) { return emulation::ballot(vote) != 0; }
template <class T> T __shfl_sync(unsigned, T value, int source) { return emulation::exchange(value, source); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::exchange(value, emulation::lane() ^ mask);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }

template <class T> T atomicAdd(T* target, T value) {
    T before = *target;
    *target = before + value;
    return before;
}
template <class T> T atomicCAS(T* target, T expected, T value) {
    T before = *target;
    if (before == expected) *target = value;
    return before;
}
template <class T> T atomicExch(T* target, T value) {
    T before = *target;
    *target = value;
    return before;
}
inline void __threadfence() {}

inline float __fmul_ru(float a, float b) {
    double product = (double)a * (double)b;  // exact, but for underflow
    return emulation::up(product, product == 0.0 && a != 0.0f && b != 0.0f ? 1.0 : 0.0);
}
inline float __fadd_ru(float a, float b) {
    double sum = (double)a + (double)b;
    double part = sum - (double)a;
    return emulation::up(sum, ((double)a - (sum - part)) + ((double)b - part));
}
inline float __fsqrt_ru(float a) {
    float root = (float)std::sqrt((double)a);
    return (double)root * (double)root < (double)a ? std::nextafter(root, INFINITY) : root;
}
inline float __double2float_rn(double a) { return (float)a; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __int_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
