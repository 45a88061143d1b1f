# Sourced by the scripts beside it: the checkout's own environment where there is one, and the Dask configuration.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ -x "$root/.venv/bin/dask" ]; then
    PATH="$root/.venv/bin:$PATH"
fi
if ! command -v dask >/dev/null; then
    echo "$0: no dask in $root/.venv or on PATH; run: make install" >&2
    exit 2
fi
DASK_CONFIG=${DASK_CONFIG:-$root/noveltyflow/runtime/dask.yaml}
export PATH DASK_CONFIG

usage() {
    echo "usage: $0 ADDRESS [options of $1]    such as: $0 tcp://127.0.0.1:8786" >&2
    exit 2
}
