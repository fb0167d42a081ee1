"""`peerd` whose event loop can be made to hang, as a bug would: SIGUSR1 sleeps HANG_S seconds on the loop's own thread.

Only tests and the testbed run it; the product has no such switch.
"""

import os
import signal
import sys
import time

from peer.cli_peerd import main

signal.signal(signal.SIGUSR1, lambda *_: time.sleep(float(os.environ.get("HANG_S", "20"))))
sys.exit(main(sys.argv[1:]))
