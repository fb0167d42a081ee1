"""Where the compute process begins: it binds its life to the daemon's before it imports anything large.

python -m peer.compute_main CONNECTION PULSE PARENT     (two descriptors and a pid, from `peer.compute_process`)
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """A daemon that is killed leaves nobody behind, not even for the second that the imports below take."""
    connection, pulse, parent = (int(text) for text in sys.argv[1:4])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)  # it died before it could be said
    from peer.compute_service import main as serve  # noqa: PLC0415 - see above

    serve(connection, pulse)


if __name__ == "__main__":
    main()
