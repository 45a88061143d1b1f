"""Every error a user can cause, each saying what is wrong, where, and what to change."""

from __future__ import annotations

import errno

FREE_SPACE = "free some space, and give the same command again; what was finished is kept"
"""What a message about a full disk ends with."""


class NoveltyflowError(Exception):
    """Base of all errors raised on purpose; its text is meant to be shown without a traceback."""

    exit_code = 2
    """Exit status of a command that ends with this error: 2, refused; 1, failed half-way."""


class SettingsError(NoveltyflowError):
    """A setting, option or workflow file that cannot be used."""


class InputError(NoveltyflowError):
    """An input that is missing, unreadable, truncated, or has changed since it was planned."""


class StoreError(NoveltyflowError):
    """A run folder that is absent, damaged, unfinished, or made with other settings or inputs."""


class UnfinishedError(StoreError):
    """A run that is asked for what one of its stages has yet to store."""

    remedy = "complete it with the command that `noveltyflow info` tells"
    """What every message about an unfinished run ends with."""


class DamageError(StoreError):
    """Something stored that is no longer what was stored."""

    exit_code = 1
    remedy = "give the same `noveltyflow run` command again with --repair"
    """What every message about damage ends with."""


class ResourceError(NoveltyflowError):
    """A cluster that lacks the memory, workers or devices which the run needs."""


class TaskError(NoveltyflowError):
    """Work that was begun and failed; what was finished is stored, and the run can be continued."""

    exit_code = 1


class DeviceError(TaskError):
    """A GPU that failed while it computed; what was in its hands can be computed elsewhere."""


def is_disk_full(error: Exception) -> bool:
    """Whether a write failed because the disk, or what one may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
