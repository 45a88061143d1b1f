"""Settings as frozen, validated models. What changes a result is fingerprinted; how it is computed is not."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 (first 16 digits) of the settings' canonical JSON."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(value: object) -> str:
    """Hexadecimal SHA-256 (first 16 digits) of `value` as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class InputSettings(Settings):
    """How the records of an input are found.

    What only decides whether an input is refused is left out of dumps, and with that of fingerprints.
    """

    format: Literal["auto", "text", "csv", "tsv", "jsonl", "parquet"] = "auto"
    """Format of all inputs; `auto` decides for each by its name, then by its content."""
    url_column: str = "url"
    """Column (CSV, TSV, Parquet) or dotted field (JSON lines) that holds the URL."""
    time_column: str | None = None
    """Column or dotted field that holds the time of the record: ISO 8601 or seconds since 1970, UTC unless it
    says otherwise."""
    max_line_bytes: int = Field(default=65_536, ge=16, le=1 << 30)
    """Longest accepted record, in bytes; a longer one is a reject, so that one bad line cannot fill memory."""
    max_ratio: int = Field(default=500, ge=1, exclude=True)
    """How many times larger than the file its decompressed content may be; lists of URLs shrink 5 to 50 times."""


class UrlSettings(Settings):
    """What makes two URLs the same row, beyond the WHATWG canonical form."""

    keep_fragment: bool = False
    """Keep `#fragment`; off, because fragments are not sent to servers and name a place within one page."""
    fold_scheme: bool = False
    """Treat `https` as `http`; off, because a change of scheme can be the novelty one looks for."""
    fold_www: bool = False
    """Drop a leading `www.` of the host; off, because it may name another server."""
    drop_tracking: bool = False
    """Drop query parameters that only track visitors (`utm_*`, `gclid`, …); off, because nothing is thrown
    away unasked."""
    sort_query: bool = False
    """Sort query parameters by name; off, because servers may depend on their order."""


class FeatureSettings(Settings):
    """How a URL becomes a sparse row; names and meanings are scikit-learn's."""

    analyzer: Literal["char", "char_wb", "word"] = "char"
    """What the n-grams are made of."""
    ngram_range: tuple[int, int] = (3, 5)
    """Shortest and longest n-gram."""
    lowercase: bool = True
    """Lower-case the URL for the n-grams only; the row keeps its case."""
    n_features: int = Field(default=1 << 20, ge=1, le=(1 << 31) - 1)
    """Number of hashed columns."""
    sublinear_tf: bool = False
    """Use 1 + ln(count) in place of the count."""
    smooth_idf: bool = True
    """Add one to document frequencies, as if one more row held every n-gram."""

    @field_validator("ngram_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("must be the shortest and the longest, with 1 <= shortest <= longest")
        return value


class NeighborSettings(Settings):
    """Which neighbours are kept."""

    n_neighbors: int = Field(default=10, ge=1, le=10_000)
    """Number of nearest neighbours kept for every row."""


class ScoringSettings(Settings):
    """Everything that decides the result; its fingerprint names the result."""

    input: InputSettings = InputSettings()
    urls: UrlSettings = UrlSettings()
    features: FeatureSettings = FeatureSettings()
    neighbors: NeighborSettings = NeighborSettings()


class ClusterSettings(Settings):
    """Where and how the work is done; none of this changes the result."""

    scheduler: str | None = None
    """Address of a running Dask scheduler; without one, a cluster is started on this machine."""
    workers: int | None = Field(default=None, ge=1)
    """Number of local worker processes; by default one for every core, as far as memory allows."""
    threads_per_worker: int = Field(default=1, ge=1)
    """Threads of each local worker."""
    memory_limit: str | None = None
    """Memory limit of each local worker, such as `1GiB`; by default 80 % of the available memory, shared."""
    tls_ca: str | None = None
    """File with the certificate of whoever signed those of the cluster; with it and the next two, all traffic between
    its processes is encrypted, and only who has such a certificate can join or connect."""
    tls_cert: str | None = None
    """File with the certificate of this process, and of those that it starts."""
    tls_key: str | None = None
    """File with the private key of that certificate."""
    dashboard_address: str = "127.0.0.1:8787"
    """Where the dashboard of a local cluster listens; another port is taken where this one is in use."""
    block_rows: int | None = Field(default=None, ge=1)
    """Rows in a block, fixed for the whole run; by default the largest that the memory limit admits."""
    task_seconds: float = Field(default=30.0, ge=0)
    """Seconds after which a task that computes neighbours ends, so that others are given what is left; every tile is
    stored as soon as it is done."""
    profile_memory: bool = False
    """Record twice a second what every worker holds into the run folder; `noveltyflow info` shows the peaks."""
    backend: Literal["auto", "cpu", "gpu"] = "auto"
    """Which kernels compute tiles; `auto` takes all that the workers have, GPUs and CPUs side by side."""
    device_memory_limit: str | None = None
    """Memory that a GPU worker may use on its device, such as `40GiB`; by default nine tenths of it."""
    rmm_pool_size: str | None = None
    """Device memory that each local GPU worker takes into an RMM pool when it starts (needs RMM), such as `30GiB`."""

    @field_validator("dashboard_address")
    @classmethod
    def _with_port(cls, value: str) -> str:
        port = value.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError("must end in a port, such as 127.0.0.1:8787 or 8787; port 0 is any free one")
        return value

    @model_validator(mode="after")
    def _local_or_not(self) -> ClusterSettings:
        local = {"workers", "threads_per_worker", "memory_limit", "dashboard_address", "rmm_pool_size"}
        # What is given as its default, as in a file that shows all defaults, asks for nothing.
        given = [n for n in sorted(local) if getattr(self, n) != type(self).model_fields[n].default]
        if self.scheduler is not None and given:
            verb = "belongs" if len(given) == 1 else "belong"
            raise ValueError(
                f"{' and '.join(given)} {verb} to a local cluster; leave out that or the scheduler"
            )
        return self

    @model_validator(mode="after")
    def _on_device_or_not(self) -> ClusterSettings:
        if self.backend == "cpu" and self.for_devices:
            given = " and ".join(self.for_devices)
            raise ValueError(
                f"{given} would do nothing: backend cpu uses no GPU; leave out that or the backend"
            )
        return self

    @property
    def for_devices(self) -> list[str]:
        """Names of the settings for GPUs that were given."""
        return [name for name in ("device_memory_limit", "rmm_pool_size") if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _all_of_tls(self) -> ClusterSettings:
        names = ("tls_ca", "tls_cert", "tls_key")
        missing = [name for name in names if getattr(self, name) is None]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"{' and '.join(missing)} must be given too: TLS takes all of {', '.join(names)}"
            )
        return self
