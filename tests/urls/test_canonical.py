"""The canonical form is stable, safe to print, and ordered by host."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noveltyflow.config import UrlSettings
from noveltyflow.testing.strategies import hostile_texts, hosts, urls
from noveltyflow.urls.canonical import _reversed_host, canonicalize, surt_host
from noveltyflow.urls.query import TRACKING_PARAMETERS, rewrite_query

DEFAULT = UrlSettings()
ALL_ON = UrlSettings(keep_fragment=True, fold_scheme=True, fold_www=True, drop_tracking=True, sort_query=True)
SETTINGS = st.builds(
    UrlSettings,
    keep_fragment=st.booleans(),
    fold_scheme=st.booleans(),
    fold_www=st.booleans(),
    drop_tracking=st.booleans(),
    sort_query=st.booleans(),
)


def one(text: str, settings: UrlSettings = DEFAULT) -> str | None:
    batch = canonicalize([text], settings)
    return batch.urls[0] or batch.reasons[0]


@given(st.one_of(urls(), hostile_texts()), SETTINGS)
@example("https://h:80/", UrlSettings(fold_scheme=True))
@example("http://www.www.example.com/", UrlSettings(fold_www=True))
@example("http://h/?utm_a=1&#", ALL_ON)
def test_idempotent_printable_and_complete(text, settings):
    batch = canonicalize([text], settings)
    url, surt, reason = batch.urls[0], batch.surts[0], batch.reasons[0]
    if url is None:
        assert surt is None
        assert reason in ("no-host", "empty-host", "unparsable")
        return
    assert reason is None
    for printable in (url, surt):
        assert printable is not None
        assert printable.isascii()
        assert printable.isprintable()
        assert " " not in printable
    assert canonicalize([url], settings) == batch


@given(st.lists(st.one_of(urls(), hostile_texts()), max_size=20))
def test_a_batch_is_its_texts_one_by_one(texts):
    batch = canonicalize(texts, DEFAULT)
    assert list(zip(*batch, strict=True)) == [
        next(zip(*canonicalize([text], DEFAULT), strict=True)) for text in texts
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTP://EXAMPLE.com:80/A/../B#frag", "http://example.com/B"),
        ("https://exämple.com:443", "https://xn--exmple-cua.com/"),
        ("http://h/a b?c d'e", "http://h/a%20b?c%20d%27e"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("host/path", "http://host/path"),
        ("//host/path", "http://host/path"),
        ("host:8080/x", "http://host:8080/x"),
        ("localhost:8080", "http://localhost:8080/"),
        ("1.2.3.4:81/x", "http://1.2.3.4:81/x"),
        ("[::1]:81/x", "http://[::1]:81/x"),
        ("user@host/x", "http://user@host/x"),
        ("svn+ssh://Host/x", "svn+ssh://Host/x"),
        ("mailto:a@b.c", "no-host"),
        ("javascript:alert(1)", "no-host"),
        ("data:text/html,x", "no-host"),
        ("tel:911", "no-host"),
        ("about:blank", "no-host"),
        ("http://", "empty-host"),
        ("http:///", "empty-host"),
        ("https://@:80/x", "empty-host"),
        ("file:///etc/passwd", "empty-host"),
        ("http://./", "empty-host"),
        ("/just/a/path", "empty-host"),
        ("///three", "empty-host"),
        ("?q", "empty-host"),
        ("", "empty-host"),
        ("two words", "unparsable"),
        ("http://h:99999/", "unparsable"),
        ("http://[::1/", "unparsable"),
        ("http://h/\ud800", "unparsable"),
    ],
)
def test_canonical_form(text, expected):
    assert one(text) == expected


@pytest.mark.parametrize(
    ("setting", "text", "expected"),
    [
        ("keep_fragment", "http://h/#a b", "http://h/#a%20b"),
        ("fold_scheme", "https://h/a", "http://h/a"),
        ("fold_scheme", "https://h:80/", "http://h/"),
        ("fold_scheme", "ftp://h/", "ftp://h/"),
        ("fold_www", "http://www.example.com/www.x", "http://example.com/www.x"),
        ("fold_www", "http://www.com/", "http://www.com/"),
        ("fold_www", "http://user:pw@www.a.b:81/", "http://user:pw@a.b:81/"),
        ("drop_tracking", "http://h/?b=%20+&UTM_Source=x&gclid=1&a&utm=1", "http://h/?b=%20+&a&utm=1"),
        ("drop_tracking", "http://h/?fbclid=1", "http://h/"),
        ("drop_tracking", "http://h/?", "http://h/?"),
        ("sort_query", "http://h/?b=2&a=3&b=1&a=%zz", "http://h/?a=3&a=%zz&b=2&b=1"),
    ],
)
def test_each_folding_alone(setting, text, expected):
    assert one(text, UrlSettings(**{setting: True})) == expected


@given(st.lists(st.sampled_from(["a=1", "A", "utm_x=%20", "b==", "", "gclid", "a=+", "é"]), max_size=8))
def test_query_parameters_are_kept_to_the_letter(parameters):
    query = "&".join(parameters)
    assert rewrite_query(query, drop_tracking=False, sort=False) == query
    kept = rewrite_query(query, drop_tracking=True, sort=False).split("&")
    assert kept == [p for p in query.split("&") if not p.startswith(("utm_", "gclid"))] or kept == [""]
    assert sorted(rewrite_query(query, drop_tracking=False, sort=True).split("&")) == sorted(query.split("&"))


def test_tracking_parameters_are_compared_in_lower_case():
    assert all(name == name.lower() for name in TRACKING_PARAMETERS)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.example.com", "com,example,www"),
        ("www.example.com:81", "com,example,www:81"),
        ("example.com.", "com,example"),
        ("127.0.0.1:81", "127.0.0.1:81"),
        ("[::1]:81", "[::1]:81"),
        ("WWW.Example.Com", "com,example,www"),
        (".", ""),
        ("", ""),
    ],
)
def test_surt_host(host, expected):
    assert surt_host(host) == expected


def test_hosts_that_no_name_can_have_are_not_remembered():
    before = _reversed_host.cache_info().currsize
    assert surt_host("a." * 200 + "b") == "b" + ",a" * 200
    assert _reversed_host.cache_info().currsize == before
    assert _reversed_host.cache_info().maxsize <= 1 << 12


def test_the_surt_keeps_the_case_of_path_and_query():
    assert canonicalize(["http://u@www.H.com:81/A/b?C=d#e"], DEFAULT).surts == ["com,h,www:81)/A/b?C=d"]


@given(st.lists(st.tuples(hosts(), st.sampled_from(["/", "/-", "/z?q", "/,"])), max_size=20))
def test_sorting_by_surt_puts_a_host_together_and_its_subdomains_after_it(pairs):
    texts = [f"http://{host}{path}" for host, path in pairs]
    texts += [f"https://sub.{host}{path}" for host, path in pairs]
    batch = canonicalize(texts, DEFAULT)
    keys = sorted((s, u) for s, u in zip(batch.surts, batch.urls, strict=True) if s and u)
    order = [surt.partition(")")[0] for surt, _ in keys]
    runs = [host for i, host in enumerate(order) if i == 0 or host != order[i - 1]]
    assert len(runs) == len(set(runs))
    for host in runs:
        family = [i for i, other in enumerate(runs) if other == host or other.startswith(f"{host},")]
        assert family == list(range(family[0], family[0] + len(family)))
        assert runs[family[0]] == host
