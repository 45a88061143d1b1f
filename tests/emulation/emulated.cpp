// The kernels, to be launched from Python through ctypes.
#include "folded.cu"

EMULATED(fold_rows)
EMULATED(scan_folded)
EMULATED(score_put_off)
