"""Hypothesis strategies for URLs and for input that means harm."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
_SEGMENT = st.text("abcXYZ019-_.~%20+é中", max_size=8)

NASTY_FRAGMENTS: Sequence[str] = (
    *("//", "\\", "?", "#", "@", ":", "[", "]", "&", "=", ";", "|", "^", "`", "{", "}", "<", ">", '"', "'"),
    *(
        "..",
        "%2e",
        "%2E",
        "%00",
        "%zz",
        "%",
        "%41",
        "%E3%80%82",
        "www.",
        "xn--",
        "xn--exmple-cua",
        "0x7f",
        "C|",
    ),
    *(
        "é",
        "ß",
        "İ",
        "中",
        "😀",
        "\u3002",
        "\uff0e",
        "\u00ad",
        "\u200d",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\u0378",
    ),
    *(
        " ",
        "\t",
        "\r",
        "\n",
        "\x00",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\x9b",
        "\u00a0",
        "\u3000",
        "\ud800",
        "\udcff",
    ),
    *("a", "b.c", ".", "-", "_", "~", "$", "*", ",", "1", "256", "utm_source=x", "gclid", "b=2&a=1", "&&"),
)
"""Pieces that parsers, terminals and idempotence stumble over; lone surrogates among them."""

PREFIXES = (
    *(
        "http://",
        "https://",
        "HTTPS://",
        "http:",
        "ftp://",
        "file://",
        "ws://",
        "svn+ssh://",
        "foo://",
        "//",
        "",
    ),
    *("mailto:", "javascript:", "data:", "tel:", "about:", "localhost:", "///", "\\\\", "[::1]:", "user@"),
)


def hosts() -> st.SearchStrategy[str]:
    """Host names of one to four labels, and addresses."""
    names = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
    return st.one_of(names, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map("[{}]".format))


def urls() -> st.SearchStrategy[str]:
    """URLs as people and crawlers write them; nearly all are valid."""
    return st.builds(
        "{}{}{}/{}{}{}".format,
        st.sampled_from(["http://", "https://", "ftp://"]),
        hosts(),
        st.sampled_from(["", ":80", ":8080"]),
        st.lists(_SEGMENT, max_size=4).map("/".join),
        st.one_of(st.just(""), _SEGMENT.map("?q={}".format)),
        st.sampled_from(["", "#top"]),
    )


def hostile_texts() -> st.SearchStrategy[str]:
    """Texts that are not quite URLs, lone surrogates and control characters included."""
    pieces = st.lists(st.one_of(st.sampled_from(NASTY_FRAGMENTS), st.text(max_size=4)), max_size=12)
    return st.builds("{}{}".format, st.sampled_from(PREFIXES), pieces.map("".join))


def hostile_lines() -> st.SearchStrategy[bytes]:
    """Lines without their ends: valid, blank, undecodable, long, or with control characters other than LF."""
    encoded = st.one_of(urls(), hostile_texts()).map(lambda text: text.encode("utf-8", "surrogatepass"))
    odd = st.sampled_from(
        [b"", b" ", b"\t ", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"a" * 100, b"\r", b"a\rb"]
    )
    return st.one_of(encoded, odd, st.binary(max_size=20)).map(lambda line: line.replace(b"\n", b""))


def hostile_inputs() -> st.SearchStrategy[bytes]:
    """Whole inputs of hostile lines with mixed line ends, with or without a last one."""
    ended = st.tuples(hostile_lines(), st.sampled_from([b"\n", b"\r\n"])).map(b"".join)
    return st.builds(
        lambda lines, last: b"".join(lines) + last, st.lists(ended, max_size=12), hostile_lines()
    )
