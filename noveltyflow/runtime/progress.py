"""How stages tell whoever watches how far they are."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of a run; implemented by the command line, ignored in tests."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; `total` is None while the amount of work is unknown."""

    def advance(self, amount: int) -> None:
        """`amount` more units of the current stage are done."""

    def finish(self, message: str) -> None:
        """The current stage is done; `message` says what it gave."""

    def note(self, message: str) -> None:
        """Something a person should know."""


class Silent:
    """A reporter that says nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Ignore."""

    def advance(self, amount: int) -> None:
        """Ignore."""

    def finish(self, message: str) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""
