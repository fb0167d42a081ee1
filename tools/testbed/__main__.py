"""Emulated boards on this machine: N networks, links of a given rate, and cores that are S times slower. Needs root.

    python -m tools.testbed up --boards 4 --slower 8 --mbit 100 -- peerctl infer docs/photos/rocket.jpg --explain
    python -m tools.testbed up --slower 32,32,16,8 --mbit 10,100,100,100 -- sh
    python -m tools.testbed validate                         is the emulation to be believed?
    python -m tools.testbed measure --plan base              every setting of a plan, resumable
    python -m tools.testbed crowd                            a folder on all boards, and many clients at once
    python -m tools.testbed report                           docs/benchmarks from what was measured

A board that is S times slower takes S times the processor time that its process needs (`tools.testbed.ledger` and
`slow_core` say how, and what that assumes). Everything measured here is *emulated*: real daemons, sockets, encryption
and requests; links, and the boards' speed, are this machine's doing.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.lan import why_no_lan
from tools.testbed import crowd, measure, report, validate
from tools.testbed.boards import Bed, boards


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _up(options: argparse.Namespace) -> int:
    slower = options.slower if len(options.slower) > 1 else options.slower * options.boards
    bed = Bed(slower=slower, models=options.models, default_model=options.model)
    with boards(bed) as running:
        running.rate(*options.mbit)
        where = {"TOKENRING_SOCKET": str(running.socket())}
        told = ", ".join(f"{each:g}" for each in slower)
        print(f"{len(slower)} emulated boards, {told} times slower, up: {where}", file=sys.stderr)
        command = options.command or [os.environ.get("SHELL", "sh")]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(command, env={**os.environ, **where, "PATH": path}, check=False).returncode


def main() -> int:
    """Parse the command line and run one of the verbs; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.testbed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    up = verbs.add_parser("up", help="boards that run as long as a command does")
    up.add_argument("--boards", type=int, default=2)
    up.add_argument("--slower", type=_numbers, default=(8.0,), help="S, or one per board")
    up.add_argument("--mbit", type=_numbers, default=(100.0,), help="rate of every link each way, or one per board")
    up.add_argument("--models", type=Path, default=Path("models_onnx"))
    up.add_argument("--model", default="", help="the default model")
    up.add_argument("command", nargs="*", help="run with TOKENRING_SOCKET set  [a shell]")
    up.set_defaults(run=_up)
    for module in (validate, measure, crowd, report):
        module.add_verb(verbs)
    options = parser.parse_args()
    problem = why_no_lan() if options.run is not report.run else ""
    if problem:
        print(f"no boards can be emulated here: it {problem}", file=sys.stderr)
        return 1
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
