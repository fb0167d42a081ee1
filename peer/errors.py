"""Every exception that `peer` raises on purpose.

PeerError
├── ConfigError                   a configuration file or option is wrong
├── TransportError                bytes could not be moved
│   ├── Closed                    this end was shut down
│   └── Unreachable               the other end does not answer
├── ProtocolError
│   ├── LocalProtocolError        our own mistake: a move that the state machine does not allow
│   └── RemoteProtocolError       the other end's mistake
│       ├── BadFrame              bytes that do not parse
│       ├── FrameTooLarge         a length over the limit, refused before it is read
│       └── UnknownVersion        a protocol version that this release does not speak
├── RequestError                  one request failed; the daemon is well
│   ├── NoDaemon                  nobody answers on the control socket
│   │   └── HungUp                somebody did, and went away before the answer
│   ├── NoSuchModel
│   ├── NotFetched                a model could not be got from the other boards, or not be written down
│   ├── CheckFailed               a digest or another check of what lies on disk came out wrong
│   ├── Refused                   understood, and declined: draining, an unknown codec or option
│   │   ├── Busy                  too many requests wait already; says when to try again
│   │   └── Leaving               finishes what it has begun, and begins nothing
│   ├── BadInput                  the file given is not an image that can be classified
│   ├── DeadlineExceeded
│   ├── NotEnoughBoards
│   ├── NotAdmitted               the boards do not share a cluster token
│   ├── Cancelled                 the asker went away
│   ├── StaleEpoch                the ring changed under an attempt
│   └── RemoteStageError          another board's compute failed
└── ReportedError                 an error of a kind unknown here, as another process reported it

The text of an error is one line: the cause, then "; " and the remedy. `kind` is its stable name on the control
socket and `exit_code` is what `peerctl` exits with. This module imports nothing but the exit codes.
"""

from typing import ClassVar

from peer.exit_codes import ExitCode


class PeerError(Exception):
    """Root of the tree; `str()` is one printable line."""

    kind: ClassVar[str] = "internal"
    exit_code: ExitCode = ExitCode.REFUSED

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(PeerError):
    """A configuration file, an option or an environment variable is wrong."""

    kind = "config"
    exit_code = ExitCode.WRONG_USAGE


class TransportError(PeerError):
    """Bytes could not be moved between two boards."""

    kind = "transport"
    exit_code = ExitCode.NOT_ENOUGH_BOARDS


class Closed(TransportError):
    """This end of the transport was shut down."""

    kind = "closed"


class Unreachable(TransportError):
    """The other end does not answer."""

    kind = "unreachable"


class ProtocolError(PeerError):
    """Somebody broke the rules of a protocol."""

    kind = "protocol"


class LocalProtocolError(ProtocolError):
    """This process asked for a move that is not allowed: a mistake of ours."""

    kind = "local-protocol"


class RemoteProtocolError(ProtocolError):
    """The other end sent what the protocol does not allow."""

    kind = "remote-protocol"


class BadFrame(RemoteProtocolError):
    """Bytes that do not parse as a message."""

    kind = "bad-frame"


class FrameTooLarge(RemoteProtocolError):
    """An announced length over its limit; nothing of it was read."""

    kind = "frame-too-large"


class UnknownVersion(RemoteProtocolError):
    """A protocol version that this release does not speak."""

    kind = "unknown-version"


class RequestError(PeerError):
    """One request ended without a result; the daemon and other requests are unharmed."""

    kind = "request"


class NoDaemon(RequestError):
    """Nobody answers on the control socket."""

    kind = "no-daemon"
    exit_code = ExitCode.NO_DAEMON


class HungUp(NoDaemon):
    """The daemon ended, or closed the connection, before it answered."""

    kind = "hung-up"


class NoSuchModel(RequestError):
    """No board that was asked has a model of this name."""

    kind = "no-such-model"
    exit_code = ExitCode.REFUSED


class NotFetched(RequestError):
    """A model could not be got from the other boards, or the disk did not take it."""

    kind = "not-fetched"
    exit_code = ExitCode.REFUSED


class CheckFailed(RequestError):
    """A digest, or another check of what lies on disk, came out wrong."""

    kind = "check-failed"
    exit_code = ExitCode.CHECK_FAILED


class Refused(RequestError):
    """The request was understood and declined."""

    kind = "refused"
    exit_code = ExitCode.REFUSED


class Busy(Refused):
    """As many requests wait as this board allows; nothing is wrong with this one."""

    kind = "busy"

    def __init__(self, message: str, retry_after_s: float = 0.5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Leaving(Refused):
    """This board is about to go; other boards take requests."""

    kind = "leaving"


class BadInput(RequestError):
    """The file is not an image that can be classified."""

    kind = "bad-input"
    exit_code = ExitCode.BAD_INPUT


class DeadlineExceeded(RequestError):
    """The deadline passed before the result was there."""

    kind = "deadline"
    exit_code = ExitCode.DEADLINE_PASSED


class NotEnoughBoards(RequestError):
    """Fewer boards are alive and able than the request demands."""

    kind = "not-enough-boards"
    exit_code = ExitCode.NOT_ENOUGH_BOARDS


class NotAdmitted(RequestError):
    """The boards do not share a cluster token."""

    kind = "not-admitted"
    exit_code = ExitCode.NOT_ADMITTED


class Cancelled(RequestError):
    """The asker went away before the result was there."""

    kind = "cancelled"


class StaleEpoch(RequestError):
    """The ring changed while an attempt was under way."""

    kind = "stale-epoch"


class RemoteStageError(RequestError):
    """Another board's compute failed; its line is in the message."""

    kind = "remote-stage"


class ReportedError(PeerError):
    """An error of a kind that this release does not know, as another process reported it."""

    kind = "reported"

    def __init__(self, message: str, *, reported_kind: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.reported_kind = reported_kind
        self.exit_code = exit_code


def _tree(root: type[PeerError]) -> list[type[PeerError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


_BY_KIND = {error.kind: error for error in _tree(PeerError) if error is not ReportedError}


def from_report(kind: str, message: str, exit_code: int) -> PeerError:
    """Rebuild an error that another process reported, from its `kind`, text and exit code (any integer)."""
    known = _BY_KIND.get(kind)
    if known is not None:
        return known(message)
    try:
        code = ExitCode(exit_code)
    except ValueError:
        code = ExitCode.REFUSED
    return ReportedError(message, reported_kind=kind, exit_code=ExitCode.REFUSED if code is ExitCode.DONE else code)
