"""Being told to stop: Ctrl-C and SIGTERM, however deep in other people's code they are heard."""

from __future__ import annotations

import signal


class Interrupts:
    """Turns Ctrl-C and SIGTERM into `KeyboardInterrupt`, which Python drops where it collects garbage just then."""

    def __init__(self) -> None:
        self._heard = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells' background jobs ask
                signal.signal(number, self._hear)

    def _hear(self, _number: int, _frame: object) -> None:
        self._heard = True
        raise KeyboardInterrupt

    def raise_lost(self) -> None:
        """Interrupt a command that goes on although it was told to stop."""
        if self._heard:
            raise KeyboardInterrupt
