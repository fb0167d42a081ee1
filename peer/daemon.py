"""`peerd` from configuration to exit code: logging, signals, and the one place where a crash becomes one line."""

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import sys

from peer import log_lines
from peer.config import PeerdConfig, with_late_token
from peer.errors import PeerError
from peer.exit_codes import ExitCode
from peer.node import Node
from peer.sd_notify import SdNotify
from peer.watchdog import watch
from runtime.errors import RuntimeFailure

_log = logging.getLogger("peerd")
# The data plane's thread asks for the interpreter lock many times per round; the default of 5 ms is a round itself.
_SWITCH_INTERVAL_S = 0.0005


def run(config: PeerdConfig) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop, another code with one line on stderr otherwise."""
    systemd = SdNotify.taken_from(os.environ, pid=os.getpid())
    log_lines.set_up(os.environ)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        asyncio.run(_serve(config, systemd))
    except (PeerError, RuntimeFailure) as problem:
        return _say(problem)
    except BaseExceptionGroup as group:
        return _say(_first(group))
    return ExitCode.DONE


async def _serve(config: PeerdConfig, systemd: SdNotify) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(with_late_token(config), importlib.metadata.version("tokenring"))
    watching = asyncio.create_task(watch(node.progress, node.changed, systemd), name="watchdog")
    # It never ends by itself, unless by an error: then the daemon ends as well.
    watching.add_done_callback(lambda _: stop.set())
    try:
        await node.run(stop)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _say(problem: BaseException) -> int:
    known = isinstance(problem, PeerError | RuntimeFailure)
    _log.error("%s", problem if known else f"{type(problem).__name__}: {problem}", exc_info=None if known else problem)
    return int(problem.exit_code) if isinstance(problem, PeerError) else ExitCode.CHECK_FAILED
