// NVML of a machine with one GPU that is not there: what dask-cuda and distributed ask before they start a worker.
#include <cstring>
#include <unistd.h>

namespace {
const int SUCCESS = 0, NOT_SUPPORTED = 3;
int device;

struct Memory {
    unsigned long long total, free, used;
};
struct Utilization {
    unsigned gpu, memory;
};
}  // namespace

extern "C" {
int nvmlInitWithFlags(unsigned) { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
const char* nvmlErrorString(int) { return "not supported"; }
int nvmlSystemGetDriverVersion(char* text, unsigned length) { return strncpy(text, "emulated", length), SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 1, SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned, void** handle) { return *handle = &device, SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char*, void** handle) { return *handle = &device, SUCCESS; }
int nvmlDeviceGetIndex(void*, unsigned* index) { return *index = 0, SUCCESS; }
int nvmlDeviceGetUUID(void*, char* text, unsigned length) { return strncpy(text, "GPU-emulated", length), SUCCESS; }
int nvmlDeviceGetName(void*, char* text, unsigned length) { return strncpy(text, "emulated", length), SUCCESS; }
int nvmlDeviceIsMigDeviceHandle(void*, unsigned* is_mig) { return *is_mig = 0, SUCCESS; }
int nvmlDeviceGetMigMode(void*, unsigned*, unsigned*) { return NOT_SUPPORTED; }
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) { return *memory = {1ull << 34, 1ull << 34, 0}, SUCCESS; }
int nvmlDeviceGetUtilizationRates(void*, Utilization* rates) { return *rates = {0, 0}, SUCCESS; }
int nvmlDeviceGetComputeRunningProcesses_v2(void*, unsigned* count, void*) { return *count = 0, SUCCESS; }
int nvmlDeviceGetCpuAffinity(void*, unsigned words, unsigned long* set) {
    memset(set, 0, words * sizeof(*set));
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    for (long core = 0; core < cores; core++) set[core / 64] |= 1ul << core % 64;
    return SUCCESS;
}
}
