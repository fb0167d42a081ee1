"""What a script of this folder tells the person who started it: one line, and the exit code that the contract gives.

Library code raises ToolFailure where it knows cause and remedy; `run` turns it, and whatever the disk refuses, into
that line. Bugs keep their traceback.
"""

import errno
import sys
from collections.abc import Callable

from peer.exit_codes import ExitCode
from runtime.errors import RuntimeFailure, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, or a limit on the size of one file


class ToolFailure(Exception):
    """Root; `cause` says what is wrong, `remedy` what to do."""

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause, self.remedy = one_line(cause), one_line(remedy)

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}"


class CheckFailed(ToolFailure):
    """What was made does not answer like its source."""


class WrongUsage(ToolFailure):
    """Options that contradict each other or the model."""

    exit_code = ExitCode.WRONG_USAGE


class NoSuchModel(ToolFailure):
    """The folder holds no model, or one of a kind that is not taken."""

    exit_code = ExitCode.REFUSED


class BadInput(ToolFailure):
    """A file is damaged, incomplete, or contradicts another one."""

    exit_code = ExitCode.BAD_INPUT


def run(main: Callable[[], None]) -> int:
    """Call a script's `main` and return its exit code; failures become one line on stderr."""
    try:
        main()
    except ToolFailure as failure:
        return _say(str(failure), failure.exit_code)
    except RuntimeFailure as failure:
        return _say(str(failure), ExitCode.REFUSED)
    except OSError as failure:
        return _say(_disk(failure), ExitCode.CHECK_FAILED)
    except KeyboardInterrupt:
        return _say("stopped; start it again with the same options", ExitCode.CHECK_FAILED)
    return ExitCode.DONE


def _disk(failure: OSError) -> str:
    where = failure.filename or "the output"
    if failure.errno in _FULL:
        return f"{where} cannot be written ({failure.strerror}); make room on the disk and start again"
    return f"{where} cannot be used ({failure.strerror}); check the path and its rights"


def _say(text: str, code: ExitCode) -> int:
    print(one_line(text, 600), file=sys.stderr, flush=True)
    return code
