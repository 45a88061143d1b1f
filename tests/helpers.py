"""What several test modules share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "noveltyflow", *map(str, args)]


def in_shell(line: str) -> list[str]:
    """The words that a shell makes of a line."""
    script = f"set -- {line}; printf '%s\\0' \"$@\""
    shell = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return [os.fsdecode(word) for word in shell.stdout.split(b"\0")[:-1]]


def some_urls(n: int, *, seed: int = 0) -> list[str]:
    """URLs with hosts, shared paths, queries and, where `n` is large, duplicates."""
    choose = random.Random(seed)
    words = "news data about item report image weather forecast archive user login api static page list view".split()
    urls = []
    for _ in range(n):
        host = (
            f"{choose.choice(['www', 'm', 'shop', 'data'])}.site{choose.randrange(max(3, n // 40))}.example"
        )
        path = "/".join(choose.choices(words, k=choose.randrange(1, 5)))
        query = f"?id={choose.randrange(1000)}" if choose.random() < 0.3 else ""
        urls.append(f"https://{host}/{path}{query}")
    return urls
