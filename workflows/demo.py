"""Score the URLs that stand in the files of the installed Python packages; `make demo` runs this.

Another folder may be given.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from sysconfig import get_paths

from noveltyflow import Workflow, open_run, run_workflow
from noveltyflow.terminal import TerminalReporter, print_table

PACKAGES = Path(get_paths()["purelib"])
SUFFIXES = {".py", ".pyi", ".txt", ".md", ".rst", ".json", ".toml", ""}
URL = re.compile(rb"https?://[!-~]*[\w/]")
# Quotes, brackets and backslashes end a URL in prose, markup and source code.
STOP = re.compile(rb"[\"'<>(){}\[\]`|\\^,]")
LIST, RUN = Path("demo_urls.txt"), "demo.zarr"


def urls(folder: Path) -> Iterator[bytes]:
    """Every URL of every text file, as often as it stands there."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            for found in URL.findall(path.read_bytes()):
                yield STOP.split(found, maxsplit=1)[0].rstrip(b".:;")


def main(folder: Path = PACKAGES) -> None:
    """Collect, score, and show the most novel ones."""
    LIST.write_bytes(b"".join(url + b"\n" for url in urls(folder)))
    with TerminalReporter() as reporter:
        run_workflow(Workflow(inputs=[str(LIST)], out=RUN), reporter, overwrite=True)
    reporter.summarize()
    columns = open_run(RUN).top_columns(15)
    print_table({name: columns[name] for name in ("novelty", "count", "url", "nearest_url")})
    sys.stderr.write(
        f"\nThese {len(open_run(RUN)):,} URLs stand in {folder.name}; the table shows the least like any other.\n"
        f"Try next, with .venv/bin on your PATH or before the command:\n"
        f"  noveltyflow top {RUN} --score kth\n"
        f"  noveltyflow neighbors {RUN} https://numpy.org/\n"
        f"  noveltyflow run YOUR_URLS.txt.gz --out urls.zarr\n"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
