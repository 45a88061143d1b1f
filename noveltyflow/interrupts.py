"""Being told to stop: Ctrl-C and SIGTERM, however deep in other people's code they are heard."""

from __future__ import annotations

import signal
import sys


class Interrupts:
    """Turns Ctrl-C and SIGTERM into `KeyboardInterrupt`, which Python drops where it collects garbage just then."""

    def __init__(self) -> None:
        self._heard = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells' background jobs ask
                signal.signal(number, self._hear)
        sys.unraisablehook = _quiet_about_interrupts

    def _hear(self, _number: int, _frame: object) -> None:
        self._heard = True
        raise KeyboardInterrupt

    def raise_lost(self) -> None:
        """Interrupt a command that goes on although it was told to stop."""
        if self._heard:
            raise KeyboardInterrupt


def _quiet_about_interrupts(dropped: sys.UnraisableHookArgs) -> None:
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
