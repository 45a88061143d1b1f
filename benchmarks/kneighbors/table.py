"""Lines as one Markdown table, with what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

from kneighbors.cases import GROWTH, Case
from kneighbors.ours import OurResult
from kneighbors.peers import PeerResult
from noveltyflow.similarity.kernels.base import time_shares

GROWTH_BAR = 1.5
MEMORY_FACTOR, MEMORY_BYTES = 3, 200_000_000
"""Memory beside the matrix may be so many times its bytes, and so many bytes more."""

_COLUMNS = {
    "case": "---",
    "rows": "--:",
    "nnz/row": "--:",
    "k": "--:",
    "ours, s": "--:",
    "faster peer, s": "--:",
    "ratio": "--:",
    "bar": "---",
    "multiply-adds/row": "--:",
    "groups bounded/row": "--:",
    "similarities/row": "--:",
    "rows skipped": "--:",
    "slowest 1 % of rows": "--:",
    "preparing, seeding, accumulating, verifying": "---",
    "peak memory / CSR": "--:",
    "exact": "---",
}
_LEGEND = """\
`cosine_kneighbors(X, k, n_jobs=2)` against the faster of `sparse_dot_topn` and `sp_matmul_rs` on the same float32
matrix; seconds of wall-clock time. Ours: the whole matrix, median of three runs, or one run where it takes more than
120 s. Peers: 2 threads, threshold 0, top k + 1, chunks of five widths; median of three samples of rows, scaled to
all, with the share of rows in a sample; the transposition is timed once and added once. Rows skipped: those for which
no similarity was left to compute when their turn came. Slowest 1 % of rows: their share of the multiply-adds in a
sample of 2,000 rows. Preparing to verifying: their shares of the kernel's time. Peak memory: most resident memory
during the first run in a fresh process, less what was resident before; at most three times the matrix and 200 MB are
asked for, so that small matrices may take many times themselves. Exact: rows at random that equal brute force in
float64, bit for bit. Bars are what the project asks of itself; at least as fast as the peer, where nothing else was.
Where the ratio is large, a peer's whole run would take minutes, and only a sample of its rows was timed.

Cases: *gov* are deep URLs of US government sites (end-of-term/eot2024), 100k with about 100 for each host, 200k and
growth drawn at random from up to 4,500 for each; *npm* are package repositories (`all-the-package-repos`);
*adblock* are page sub-requests (brave/adblock-rust); *tweetfeed* are reported phishing and malware URLs
(TweetFeed); *scoop* are package downloads of few templates (ScoopInstaller/Main); *inject* and *hostnovel* are gov
with URLs of TweetFeed, or of hosts held back, put in; *httpparams* are parameter values
(Morzeux/HttpParamsDataset). Rows are in SURT order, as in a run, but for the shuffled ones. Shapes are made against
the kernel: URLs that differ in a number, and random matrices."""


@dataclass(frozen=True)
class Line:
    """What became of one case: measured, or why not.

    Attributes
    ----------
    case : Case
    ours : OurResult or None
        None where `problem` says why there is none.
    peer : PeerResult or None
        None too where the peers are not timed.
    problem : str
        What was missing or went wrong; empty otherwise.
    """

    case: Case
    ours: OurResult | None = None
    peer: PeerResult | None = None
    problem: str = ""


def render(machine: str, lines: Sequence[Line]) -> str:
    """The whole Markdown text for the lines there are so far."""
    parts = [
        "# Exact cosine neighbours: measured\n",
        f"{machine}\n",
        f"{_LEGEND}\n",
        _row(_COLUMNS),
        _row(_COLUMNS.values()),
        *(_row(_cells(line.case, line.ours, line.peer)) for line in lines if line.ours),
    ]
    ends = [f"Left out: {line.case.name}: {line.problem}." for line in lines if line.problem]
    growth = [line.ours for line in lines if line.ours and line.case.name.startswith(GROWTH)]
    if len(growth) > 1:
        ends.append(_growth(growth))
    return "\n".join(parts) + "\n" + "".join(f"\n{end}\n" for end in ends)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(case: Case, ours: OurResult, peer: PeerResult | None) -> list[str]:
    return [
        case.name,
        f"{ours.rows:,}",
        f"{ours.nonzeros / ours.rows:.0f}",
        str(case.k),
        f"{ours.median_seconds:.2f}" + (" (one run)" if len(ours.seconds) == 1 else ""),
        *_compared(case, ours, peer),
        f"{ours.work.multiply_adds / ours.rows:,.0f}",
        f"{ours.work.candidates / ours.rows:,.1f}",
        f"{ours.work.verified_pairs / ours.rows:,.1f}",
        f"{ours.work.skipped_rows / ours.work.query_rows:.0%}",
        f"{ours.slowest_share:.0%}",
        ", ".join(f"{share:.0%}" for share in time_shares(asdict(ours.work)).values()),
        _memory(ours),
        f"{ours.checked_rows} rows",
    ]


def _compared(case: Case, ours: OurResult, peer: PeerResult | None) -> list[str]:
    if peer is None or case.bar is None:
        return ["", "", ""]
    ratio = peer.seconds / ours.median_seconds
    return [
        f"{peer.seconds:.2f} ({peer.name}, {peer.share:.1%} of rows)",
        f"**{ratio:.1f}x**",
        f"≥ {case.bar:g}x, {verdict(ratio >= case.bar)}",
    ]


def _memory(ours: OurResult) -> str:
    met = ours.peak_bytes <= MEMORY_FACTOR * ours.csr_bytes + MEMORY_BYTES
    return f"{ours.peak_bytes / ours.csr_bytes:.2f}, {verdict(met)}"


def verdict(met: bool) -> str:
    """Whether a bar was reached, in one word."""
    return "met" if met else "missed"


def _growth(results: Sequence[OurResult]) -> str:
    """Exponents of time and work over rows: the fitted ones, and those from each line to the next."""
    rows = np.log([result.rows for result in results])
    seconds = np.log([result.median_seconds for result in results])
    work = np.log([max(result.work.multiply_adds, 1) for result in results])
    fitted, fitted_work = (float(np.polyfit(rows, values, 1)[0]) for values in (seconds, work))
    steps = ", ".join(
        f"{(t2 - t1) / (n2 - n1):.2f}" for (n1, t1), (n2, t2) in pairwise(zip(rows, seconds, strict=True))
    )
    return (
        f"Growth: time over rows fits an exponent of **{fitted:.2f}** (bar: at most {GROWTH_BAR}, "
        f"{verdict(fitted <= GROWTH_BAR)}); from line to line {steps}. Multiply-adds: {fitted_work:.2f}."
    )
