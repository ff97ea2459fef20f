"""The exceptions of this package: each has a sentence on what happened, and `hint` on what to do about it."""

from __future__ import annotations

import re
from typing import Any


class PsdError(Exception):
    """Every error of this package. `code` is the library's (psd/worker.h), 0 if it has none; `hint` is what to do, or ""."""

    hint = ""

    def __init__(self, sentence: str, code: int = 0, hint: str | None = None) -> None:
        self.code = code
        if hint is not None:
            self.hint = hint
        super().__init__(f"{sentence}; {self.hint}" if self.hint else sentence)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (type(self), str(self), self.code, self.hint)

    def __str__(self) -> str:
        return str(self.args[0])  # of OSError it would be another, with an errno


def _copy(kind: type[PsdError], sentence: str, code: int, hint: str) -> PsdError:
    """What pickle makes of an exception, such as one of another process."""
    error = kind(sentence, code, hint="")
    error.hint = hint
    return error


class UsageError(PsdError, ValueError):
    """An invalid call: a wrong shape or type, or calls in a wrong order. Nothing was sent."""


class ConfigError(PsdError):
    """Keys are missing or cannot be read, an address is not allowed without keys, or the address of server 0 is missing."""


class UnavailableError(PsdError, ConnectionError):
    """A server, or workers that the job needs, stayed away for `join_timeout`."""

    hint = "look at the servers' logs, or set a longer join_timeout"


class DeadlineError(PsdError, TimeoutError):
    """The timeout of this call passed. The exchange continues, and you may wait for it again."""


class RefusedError(PsdError):
    """A server refused this program: another job, version, model or rule. The sentence quotes both sides."""


class FencedError(PsdError):
    """The servers gave this worker up, or another process took its place."""

    hint = "call psd.connect again to continue; two processes must not share one worker id"


class WentBackError(PsdError):
    """A server was lost, and the job has gone back to an earlier clock, which is in `position`."""

    hint = "derive the next batch from position, and continue from there"


class NotAuthorizedError(PsdError, PermissionError):
    """The servers do not accept this worker's key, or one side has keys and the other has none."""

    hint = "give key= and server_public=, made by psdctl keygen, or insecure=True on one machine without keys"


class JobFailedError(PsdError):
    """The job has failed for all: too many rounds in a row made no step. The sentence, from the servers, says what to do."""


class SystemDeniedError(PsdError, OSError):
    """The operating system denies memory, a thread, a socket or a file."""


class NoFileError(SystemDeniedError, FileNotFoundError):
    """A file to read is not there."""


class LibraryError(PsdError, ImportError):
    """libpsdworker was not found, or is of another version."""

    hint = "install libpsdworker0, or set PSD_LIBRARY to the path of libpsdworker.so"


class Stopped(SystemExit):
    """An operator (psdctl drain) or a signal has asked this worker to end, and it has left the job. If it is not caught, the
    program exits with `code`."""


class PsdPerformanceWarning(UserWarning):
    """A call works, but makes an avoidable copy."""


_CLASSES: dict[int, type[PsdError]] = {
    -1: UsageError,
    -2: SystemDeniedError,
    -3: SystemDeniedError,
    -6: ConfigError,
    -7: ConfigError,
    -8: UnavailableError,
    -9: ConfigError,
    -10: RefusedError,
    -11: FencedError,
    -12: DeadlineError,
    -13: WentBackError,
    -14: SystemDeniedError,
    -15: NotAuthorizedError,
    -17: JobFailedError,
}


# What the library's sentences call the arguments of psd.connect, psd.Follower and psd.Optimizer.
_ARGUMENTS = (
    ("the address of server 0 is missing: give it", 'the address of server 0 is missing: give join="tcp://HOST:7470"'),
    (r"--worker-key FILE --server-public FILE", "key=FILE, server_public=FILE"),
    (r"--server-public\b", "server_public="),
    (r"--worker-key\b", "key="),
    (r"--insecure\b", "insecure=True"),
    (r"--join (tcp://[\w.:]+)", r'join="\1"'),
    (r"--join\b", "join="),
    (r"\bcluster\.file\b", "cluster_file="),
    (r"a worker\.id of its own", "a worker= of its own (PSD_WORKER__ID)"),
)


def in_python(sentence: str) -> str:
    """A sentence of the library, with the names of arguments in Python."""
    for words, argument in _ARGUMENTS:
        sentence = re.sub(words, argument, sentence)
    return sentence


def error_of(code: int, sentence: str) -> PsdError:
    """The exception for a code of the library and its sentence."""
    sentence = in_python(sentence)
    other = re.search(r"this is job (\S+), you belong to job ", sentence)
    hint = f'give job="{other[1]}"' if other else "" if "allow-list" in sentence else None  # a refused key's sentence has its cure
    if code == -12 and "more workers: " in sentence:
        hint = "start the others, or lower workers.min (workers= of psd.launch)"
    return _CLASSES.get(code, PsdError)(sentence or "unknown error", code, hint)
