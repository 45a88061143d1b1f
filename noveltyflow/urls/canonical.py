"""The canonical form of URLs and their order, by a WHATWG parser."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import can_ada

from noveltyflow.config import UrlSettings
from noveltyflow.urls.query import rewrite_query
from noveltyflow.urls.rejects import Reason

Url: TypeAlias = Any
"""A `can_ada.URL`; its setters follow the WHATWG standard."""
Folding: TypeAlias = Callable[[Url], bool]
"""Changes a parsed URL, and tells whether the change needs a check."""

_LONGEST_KEPT = 260
"""Characters of a host and port whose key is remembered: a name has 253 at most, a parser lets pass any number."""
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HOST_AND_PORT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[0-9]{1,5}(?:[/?#\\]|$)")
# Before a colon and a number these are schemes (tel:911); any other name is a host (localhost:8080).
_NEVER_HOSTS = {
    *("http", "https", "ws", "wss", "ftp", "file"),
    *(
        "about",
        "callto",
        "data",
        "fax",
        "javascript",
        "mailto",
        "news",
        "sip",
        "sips",
        "skype",
        "sms",
        "tel",
        "urn",
    ),
}
_NOTHING_BEFORE_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]*+(?:[^/\\?#]*@)?(?::[0-9]*)?(?:[/\\?#]|$)")
_IPV4 = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")


class CanonicalBatch(NamedTuple):
    """Three lists as long as the input; where `reasons` is not None, the other two are."""

    urls: list[str | None]
    """Canonical URLs: printable ASCII without spaces."""
    surts: list[str | None]
    """Keys whose order groups hosts; see `surt_host`."""
    reasons: list[Reason | None]
    """Why there is no URL: `no-host`, `empty-host` or `unparsable`."""


def canonicalize(texts: Sequence[str], settings: UrlSettings) -> CanonicalBatch:
    """Canonical form, SURT key or reason of rejection for every text.

    The canonical form is the WHATWG serialisation: scheme and host in lower case, the host in punycode,
    default ports, dot segments and the fragment gone, what must be percent-encoded encoded; the case of path
    and query is kept. A text without a scheme (`host/path`, `//host/path`, `host:8080/x`) is read as http.
    The function is idempotent: a canonical URL is its own canonical form.

    Parameters
    ----------
    texts : sequence of str
        URLs as they were read; lone surrogates are `unparsable`.
    settings : UrlSettings
        What else to fold.

    Returns
    -------
    CanonicalBatch
        Sorting by `(surt, url)` is the order of rows; a SURT alone does not identify a URL, because it
        leaves out the scheme, the user and the fragment.
    """
    foldings = _foldings(settings)
    urls: list[str | None] = []
    surts: list[str | None] = []
    reasons: list[Reason | None] = []
    for text in texts:
        url, surt, reason = _canonical(text, foldings)
        urls.append(url)
        surts.append(surt)
        reasons.append(reason)
    return CanonicalBatch(urls, surts, reasons)


def _canonical(text: str, foldings: Sequence[Folding]) -> tuple[str, str, None] | tuple[None, None, Reason]:
    address = text if text.startswith(("https://", "http://")) else with_scheme(text)
    try:
        url = can_ada.parse(address)
    except ValueError:
        return None, None, "empty-host" if _NOTHING_BEFORE_PATH.match(address) else "unparsable"
    except TypeError:
        # The text cannot be encoded: it holds a lone surrogate.
        return None, None, "unparsable"
    changed = False
    for fold in foldings:
        changed |= fold(url)
    host = url.host
    key = surt_host(host)
    if not key:
        return None, None, "empty-host" if url.has_hostname() else "no-host"
    href: str = url.href
    # The standard does not promise that IDNA, or what follows a folding, is stable; we do.
    if (changed or "xn--" in host or "%" in host) and not _is_stable(href):
        return None, None, "unparsable"
    return href, f"{key}){url.pathname}{url.search}", None


def _is_stable(href: str) -> bool:
    try:
        return bool(can_ada.parse(href).href == href)
    except ValueError:
        return False


def with_scheme(text: str) -> str:
    """Put `http` before a text that has no scheme of its own.

    `name:123` counts as host and port unless the name is a common scheme; `//host` keeps its slashes. A text
    that starts with a path, query or fragment gets an empty host, which no parser then mistakes for a name.
    """
    text = text.strip(_C0_AND_SPACE)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        host = _HOST_AND_PORT.match(text)
        return f"http://{text}" if host and host[1].lower() not in _NEVER_HOSTS else text
    slashes = len(text) - len(text.lstrip("/\\"))
    if slashes == 2:
        return f"http:{text}"
    return f"http://{text}" if slashes == 0 else "http://"


def surt_host(host: str) -> str:
    """Host part of a SURT key (sort-friendly URI reordering transform).

    The key of a URL is the host reversed with commas, its port, `)`, path and query: `www.example.com:81/a?b`
    becomes `com,example,www:81)/a?b`. In the order of code points a host's URLs stand together, directly
    before those of its subdomains. A host with a port is a host of its own. Addresses are not reversed, and a
    trailing dot is left out.

    Parameters
    ----------
    host : str
        Host and port as a parsed URL gives them.

    Returns
    -------
    str
        Empty when the host has no label.
    """
    return _reversed_host(host) if len(host) <= _LONGEST_KEPT else _reversed_host.__wrapped__(host)


@lru_cache(maxsize=1 << 12)
def _reversed_host(host: str) -> str:
    if host.startswith("["):
        return host
    name, colon, port = host.partition(":")
    labels = name.rstrip(".").lower()
    if labels[-1:].isdigit() and _IPV4.fullmatch(labels):
        return host
    if not labels:
        return ""
    return ",".join(reversed(labels.split("."))) + colon + port


def _foldings(settings: UrlSettings) -> list[Folding]:
    steps: list[Folding] = []
    if not settings.keep_fragment:
        steps.append(_drop_fragment)
    if settings.fold_scheme:
        steps.append(_fold_scheme)
    if settings.fold_www:
        steps.append(_fold_www)
    if settings.drop_tracking or settings.sort_query:
        steps.append(_query_folding(settings))
    return steps


def _drop_fragment(url: Url) -> bool:
    if url.has_hash():
        url.hash = ""
    # The last part of a URL decides nothing about the others, so this needs no second look.
    return False


def _fold_scheme(url: Url) -> bool:
    if url.protocol != "https:":
        return False
    url.protocol = "http"
    return True


def _fold_www(url: Url) -> bool:
    host = url.hostname
    rest = host
    # What remains must still be a domain: www.com is a name of its own.
    while rest.startswith("www.") and "." in rest[4:].strip("."):
        rest = rest[4:]
    if rest == host:
        return False
    url.hostname = rest
    return True


def _query_folding(settings: UrlSettings) -> Folding:
    def fold(url: Url) -> bool:
        if not url.has_search():
            return False
        before = url.search[1:]
        after = rewrite_query(before, drop_tracking=settings.drop_tracking, sort=settings.sort_query)
        if after == before:
            return False
        url.search = after
        return True

    return fold
