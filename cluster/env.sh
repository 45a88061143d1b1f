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
