"""`peerd` on an emulated board: decoding a picture and the rest of a request take S times their processor time.

Its compute process is `tools.testbed.slow_compute`. What the daemon does beside requests (probing other boards) is not
slowed: it is a core of its own.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from peer.cli_peerd import main
from peer.compute_process import ComputeProcess
from peer.inference import Inference
from peer.protocol.effects import Answer
from peer.protocol.events import Submission
from peer.reports import InferQuery, InferReport
from tools.testbed.ledger import Ledger
from tools.testbed.slow_core import be_urgent

_SLOWER = float(os.environ["TESTBED_SLOWER"])
_infer, _answer = Inference.infer, Inference._answer  # noqa: SLF001 - the seam between preparing and waiting
_ledgers: dict[asyncio.Task[object] | None, Ledger] = {}


async def _catch_up(ledger: Ledger) -> None:
    early_s = ledger.due(time.process_time()) - time.monotonic()
    if early_s > 0:  # once: what the sleeping itself takes is not due
        await asyncio.sleep(early_s)


async def _slow_infer(self: Inference, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
    task = asyncio.current_task()
    ledger = _ledgers[task] = Ledger(_SLOWER)
    ledger.begin(time.monotonic(), time.process_time())
    try:
        reports = await _infer(self, query, images)
        await _catch_up(ledger)
    finally:
        del _ledgers[task]
    return reports


async def _slow_answer(self: Inference, submission: Submission) -> Answer:
    ledger = _ledgers[asyncio.current_task()]
    await _catch_up(ledger)
    answer = await _answer(self, submission)
    ledger.begin(time.monotonic(), time.process_time())
    return answer


if __name__ == "__main__":
    Inference.infer, Inference._answer = _slow_infer, _slow_answer  # type: ignore[method-assign] # noqa: SLF001
    keywords = ComputeProcess.__init__.__kwdefaults__
    assert keywords is not None
    be_urgent()  # its sleeping is due time; waiting for a core that others keep busy is not
    keywords["program"] = "tools.testbed.slow_compute"
    sys.exit(main(sys.argv[1:]))
