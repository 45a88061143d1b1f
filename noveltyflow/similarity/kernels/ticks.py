"""Where the time of a compiled search goes: ticks of the processor's counter, by stage, read between the stages.

How long a tick is does not matter: `cpu` shares out the measured time of the call. A reading takes about 25 cycles.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.types import Int64Array

WORK_SLOTS = 11
"""Of the int64 array `work` of a search: four for counts, the ticks of each stage, the last reading, three counts."""
SEEDING, ACCUMULATING, VERIFYING, _READ = 4, 5, 6, 7
COUNTER = "llvm.readcyclecounter"
_LEAST_LLVM = {"x86_64": 0, "aarch64": 22, "arm64": 22}
"""Version of LLVM from which on `COUNTER` reads what any program may read; earlier ones read another one on ARM."""
_INT64 = ir.IntType(64)


def has_counter(triple: str) -> bool:
    """Whether programs on the processor that an LLVM triple names can count ticks."""
    least = _LEAST_LLVM.get(triple.split("-")[0])
    return least is not None and llvmlite.binding.llvm_version_info[0] >= least


def _reading(_typing: Any) -> Any:
    return types.int64(), _read


def _read(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
    if not has_counter(context.codegen().magic_tuple()[0]):
        return _INT64(0)
    declare: Any = cgutils.get_or_insert_function
    return builder.call(declare(builder.module, ir.FunctionType(_INT64, []), COUNTER), [])


reading: Any = intrinsic(_reading)
"""`reading()`: ticks since some moment as an int64; 0 where they cannot be counted."""


@uncounted
def begin(work: Int64Array) -> None:
    """Take the first reading."""
    work[_READ] = reading()


@uncounted
def spent(work: Int64Array, stage: int) -> None:
    """Count what has passed since the last reading for a stage."""
    now = reading()
    work[stage] += now - work[_READ]
    work[_READ] = now
