"""`peerd` whose event loop can be made to hang, as a bug would: SIGUSR1 sleeps HANG_S seconds on the loop's own thread.

SILENCE_S shortens how long its compute process may say nothing. It also writes down every change of what it believes
of another board, as a line of its log; NAIVE=WHAT,... takes protections away (`tests.helpers.naive`), DIE_DIR=FOLDER
has a board die when told to (`tests.helpers.dying_compute`). Only tests and the testbed run it; the product has no such
switches.
"""

import os
import signal
import sys
import time

from peer import watchdog
from peer.cli_peerd import main
from peer.compute_process import ComputeProcess
from peer.protocol.roster import Roster
from peer.protocol.types import Member
from tests.helpers.naive import make_naive

_put = Roster._put


def _tell_and_put(roster: Roster, member: Member) -> None:
    known = roster.get(member.peer)
    if known is None or known.status is not member.status:
        print(f"belief {time.monotonic():.3f} {member.name} {member.status} {member.reason}", file=sys.stderr)
    _put(roster, member)


Roster._put = _tell_and_put  # type: ignore[method-assign]
if "NAIVE" in os.environ:
    make_naive(os.environ["NAIVE"])
for _variable, _program in (("NAIVE", "tests.helpers.naive_compute"), ("DIE_DIR", "tests.helpers.dying_compute")):
    if _variable in os.environ:
        keywords = ComputeProcess.__init__.__kwdefaults__
        assert keywords is not None
        keywords["program"] = _program
watchdog.SILENCE_BUDGET_S = float(os.environ.get("SILENCE_S", watchdog.SILENCE_BUDGET_S))
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(float(os.environ.get("HANG_S", "20"))))
sys.exit(main(sys.argv[1:]))
