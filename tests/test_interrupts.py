"""Being told to stop is heard, also where Python drops the exception that says so."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from helpers import Cli, in_shell

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


def test_what_was_interrupted_can_be_pasted(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option comes again but the one that would begin anew."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("noveltyflow.runtime.submit.run_workflow", interrupted)
    words = [
        "run",
        "it's.txt",
        "--out",
        "evil\x1b[2J\nname",
        "--block-rows",
        "50",
        "--profile-memory",
        "--repair",
    ]
    words += ["--quiet", "--json", "--scheduler", "tcp://127.0.0.1:9", "--max-ratio", "900"]
    monkeypatch.setattr("sys.argv", ["/bin/noveltyflow", "--log-level", "info", *words, "--overwrite"])
    done = here(*words)
    assert done.returncode == 130
    *_, line = done.stderr.splitlines()
    assert line.isprintable()
    assert in_shell(line) == ["noveltyflow", "--log-level", "info", *words]
