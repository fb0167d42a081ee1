"""The exit codes of `peerctl`, fixed by the contract with its users."""

import enum


class ExitCode(enum.IntEnum):
    """What a script reads from `$?`; every error of `peer.errors` names one of them."""

    DONE = 0
    CHECK_FAILED = 1
    WRONG_USAGE = 2
    NO_DAEMON = 3
    REFUSED = 4
    BAD_INPUT = 5
    DEADLINE_PASSED = 6
    NOT_ENOUGH_BOARDS = 7
    NOT_ADMITTED = 8
