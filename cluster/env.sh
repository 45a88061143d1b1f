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

# require_address COMMAND ARGUMENT...: the first argument is the address of a scheduler, not an option.
require_address() {
    case ${2-} in
    '' | -*)
        echo "usage: $0 ADDRESS [options of $1]    such as: $0 tcp://127.0.0.1:8786" >&2
        exit 2
        ;;
    esac
}

# require_gpu: dask-cuda, and a driver that shows it a GPU; without them, dask would tell in many lines.
require_gpu() {
    python3 - "$0" <<'END' || exit 2
import sys

try:
    import dask_cuda
    import pynvml
except ImportError as error:
    sys.exit(f"{sys.argv[1]}: {error}; run: pip install -c constraints.txt -e '.[gpu]'")
try:
    pynvml.nvmlInit()
    found = pynvml.nvmlDeviceGetCount()
except pynvml.NVMLError as error:
    sys.exit(f"{sys.argv[1]}: no NVIDIA driver that works on this host: {error}")
if not found:
    sys.exit(f"{sys.argv[1]}: the NVIDIA driver of this host shows no GPU")
END
}

# option_of NAME DEFAULT ARGUMENT...: the value that the arguments give to an option; the last one counts.
option_of() {
    name=$1 value=$2 previous=
    shift 2
    for argument; do
        case $previous in "$name") value=$argument ;; esac
        case $argument in "$name"=*) value=${argument#*=} ;; esac
        previous=$argument
    done
    echo "$value"
}

# host_towards ADDRESS ARGUMENT...: where to listen, unless the arguments say it. Dask would listen on every
# interface, and whoever reaches a worker can run code on it; the one that leads to the scheduler is enough.
host_towards() {
    for option in --host --interface --listen-address; do
        [ -z "$(option_of $option '' "$@")" ] || return 0
    done
    python3 - "$1" <<'END'
import socket, sys
from urllib.parse import urlsplit

address = sys.argv[1]
url = urlsplit(address if "://" in address else f"tcp://{address}")
try:
    family, kind, _, _, place = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        host = probe.getsockname()[0]
except (OSError, ValueError) as error:
    sys.exit(f"no way to the scheduler at {address}: {error}")
print("--host", f"[{host}]" if ":" in host else host)
END
}
