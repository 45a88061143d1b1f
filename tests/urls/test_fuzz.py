"""Hostile inputs for every reader, hostile texts for the canonical form; a million with `benchmarks/fuzz.py`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import COMPRESSORS

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.testing.fuzz import read_checked
from noveltyflow.testing.strategies import hostile_inputs
from noveltyflow.urls import batches, canonical

SEEDS = st.integers(0, 1 << 62)
LIMIT = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "input"


@settings(deadline=None)
@given(hostile_inputs(), st.sampled_from(list(COMPRESSORS)), st.integers(1, 60), st.integers(1, 5))
@pytest.mark.parametrize("kind", ["text", "csv", "tsv", "jsonl", "parquet", "auto"])
def test_any_bytes_are_accounted_for_or_refused(kind, path, data, compression, shard_bytes, batch_records):
    path.write_bytes(COMPRESSORS[compression](data))
    asked = InputSettings(format=kind, max_line_bytes=LIMIT)
    found = read_checked(str(path), asked)
    cut = read_checked(str(path), asked, shard_bytes=shard_bytes, batch_records=batch_records)
    assert isinstance(found, InputError) == isinstance(cut, InputError)
    assert isinstance(found, InputError) or found == cut


@settings(max_examples=500, deadline=None)
@given(SEEDS)
def test_inputs_of_every_format_damaged_or_not(path, seed):
    fuzz.input_case(random.Random(seed), path)


@settings(max_examples=500, deadline=None)
@given(SEEDS)
def test_texts_have_one_canonical_form_or_none(seed):
    fuzz.text_case(random.Random(seed))


def drop_one_www(url: Any) -> bool:
    url.hostname = url.hostname.removeprefix("www.")
    return True


def test_broken_promises_are_found(monkeypatch, capsys):
    """A reader that lets control characters pass, and a form that is not stable, do not go unseen."""
    monkeypatch.setattr(batches, "check_text", lambda value: (value.strip(" \t"), None))
    monkeypatch.setattr("noveltyflow.urls.readers.delimited.check_text", batches.check_text)
    monkeypatch.setattr(canonical, "_is_stable", lambda href: True)
    monkeypatch.setattr(canonical, "_fold_www", drop_one_www)
    assert fuzz.main(["--cases", "1500"]) == 1
    said = capsys.readouterr()
    assert "a text that is no reject" in said.err
    assert "not its own canonical form" in said.err
    assert "1,500 cases" in said.out


def test_a_case_can_be_repeated(capsys):
    assert [fuzz.main(["--cases", "20", "--seed", "7"]) for _ in range(2)] == [0, 0]
    first, second = capsys.readouterr().out.split(" problems\n")[:2]
    assert first.rpartition(" in ")[0] == second.rpartition(" in ")[0]
