"""What is measured: every line of the table, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from noveltyflow.config import FeatureSettings

NPM = "npm"
"""Name of the list of npm package repositories, which comes from the registry and not from the data folder."""
GROWTH = "growth"
"""What the names of the lines begin with that the exponent is fitted to."""
_QUICK = 1000
"""A quick run divides numbers of rows by this."""
_QUICK_ROWS = 300

Shape = Literal["one digit", "numbered", "disjoint", "common column", "short and long", "nearly tied"]


@dataclass(frozen=True)
class Part:
    """Rows drawn from one list; all of them where `rows` is None."""

    source: str
    rows: int | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table: a matrix, a number of neighbours, and the ratio asked for.

    Attributes
    ----------
    name : str
        What `--only` matches.
    content : tuple of Part, or Shape
        Lists whose rows make the matrix, or an adversarial shape.
    rows : int
        Rows of an adversarial shape; not used for lists.
    k : int
        Neighbours of each row.
    features : FeatureSettings
        As in a run.
    idf : bool
        Weigh columns by smoothed idf.
    text : {"url", "host and path"}
        What the n-grams are taken from: the canonical URL, or the same without scheme and `www.`.
    shuffled : bool
        Rows in random order in place of SURT order.
    bar : float or None
        Least ratio to the faster peer; None where the peers are not timed.
    """

    name: str
    content: tuple[Part, ...] | Shape
    rows: int = 100_000
    k: int = 10
    features: FeatureSettings = field(default_factory=FeatureSettings)
    idf: bool = True
    text: Literal["url", "host and path"] = "url"
    shuffled: bool = False
    bar: float | None = 1.0

    def quick(self) -> Case:
        """The same with few rows."""
        if isinstance(self.content, str):
            return replace(self, rows=_QUICK_ROWS)
        parts = (replace(p, rows=_QUICK_ROWS if p.rows is None else p.rows // _QUICK) for p in self.content)
        return replace(self, content=tuple(parts))


_GOV_200K = (Part("gov_1m.txt.gz", 200_000),)
_GOV_100K = (Part("gov_100k.txt.gz"),)
_TWEETFEED_100K = (Part("tweetfeed.csv.gz", 100_000),)
_WORDS = FeatureSettings(analyzer="word", ngram_range=(1, 1))
_SHORT_GRAMS = FeatureSettings(ngram_range=(2, 3))
_SHAPES: tuple[Shape, ...] = ("one digit", "numbered", "disjoint", "common column", "short and long")

CASES = (
    Case("gov 200k", _GOV_200K, bar=25),
    Case("gov 200k, rows shuffled", _GOV_200K, shuffled=True),
    Case("npm 200k", (Part(NPM, 200_000),), bar=40),
    Case(
        "adblock + tweetfeed 30k", (Part("adblock_requests.txt.gz"), Part("tweetfeed.csv.gz", 30_000)), bar=8
    ),
    Case("scoop timeline", (Part("scoop_timeline.csv.gz"),), bar=10),
    Case("gov 100k", _GOV_100K),
    Case("gov 100k, k = 1", _GOV_100K, k=1),
    Case("gov 100k, k = 50", _GOV_100K, k=50),
    Case("gov 100k, k = 100", _GOV_100K, k=100),
    Case("inject gov", (Part("inject_gov.csv.gz"),)),
    Case("hostnovel gov", (Part("hostnovel_gov.csv.gz"),)),
    Case("adblock", (Part("adblock_requests.txt.gz"),)),
    Case("tweetfeed 100k", _TWEETFEED_100K),
    Case("tweetfeed", (Part("tweetfeed.csv.gz"),)),
    Case("httpparams", (Part("httpparams.csv.gz"),)),
    Case("gov 200k, words", _GOV_200K, features=_WORDS),
    Case("tweetfeed 100k, words, no idf", _TWEETFEED_100K, features=_WORDS, idf=False),
    Case("tweetfeed 100k, words, k = 100", _TWEETFEED_100K, features=_WORDS, k=100),
    Case("gov 200k, k = 50", _GOV_200K, k=50, bar=10),
    Case(
        "gov 200k, k = 50, char 2-3 of //host/path, no idf",
        _GOV_200K,
        k=50,
        features=_SHORT_GRAMS,
        idf=False,
        text="host and path",
        bar=5,
    ),
    *(Case(f"shape: {shape}", shape, idf=False) for shape in _SHAPES),
    Case("shape: nearly tied", "nearly tied", rows=20_000, idf=False),
    *(
        Case(f"{GROWTH}: gov {rows // 1000}k", (Part("gov_1m.txt.gz", rows),), bar=None)
        for rows in (50_000, 100_000, 200_000, 400_000, 800_000)
    ),
)
