"""Being told to stop is heard, also where Python drops the exception that says so."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from noveltyflow.interrupts import Interrupts


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupts]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    yield Interrupts()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt(interrupts: Interrupts, number: signal.Signals) -> None:
    interrupts.raise_lost()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_an_interrupt_during_garbage_collection_is_raised_later(
    interrupts: Interrupts, capfd: pytest.CaptureFixture[str]
) -> None:
    def collecting(_phase: str, _info: object) -> None:
        gc.callbacks.remove(collecting)
        os.kill(os.getpid(), signal.SIGINT)

    gc.callbacks.append(collecting)
    gc.collect()
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_lost()


def test_an_ignored_signal_stays_ignored(interrupts: Interrupts) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
