"""One board: builds the parts, starts them, and stops them in order. The composition root."""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from peer.acquaintances import Acquaintances
from peer.administration import Administration, Vitals
from peer.board_api import BoardApi, Standing
from peer.bulk_plane import BulkPlane
from peer.catalog import Catalog
from peer.cluster_lock import LOOPBACK, read_lock, write_lock
from peer.cluster_token import cluster_tag
from peer.compute_process import ComputeProcess
from peer.compute_words import Holdings, Setup
from peer.config import PeerdConfig, Prepack
from peer.control_plane import ControlPlane
from peer.control_server import control_server
from peer.discovery import Announcement
from peer.errors import ConfigError, PeerError
from peer.identity import next_identity
from peer.inference import Inference
from peer.lookout import Lookout
from peer.mdns import MdnsDiscovery
from peer.news import NewsLog
from peer.observation import Observation
from peer.partial_copy import target_of
from peer.protocol.control_events import LeaveRequested, LinkBroke, ModelsHeld, ProfileMeasured, Sighted
from peer.protocol.events import ViewChanged
from peer.protocol.liveness import Pace
from peer.protocol.membership import Membership
from peer.protocol.profile import alike
from peer.protocol.requests import RequestLimits
from peer.protocol.types import HIGHEST_PORT, Address, Endpoint, Lock, Member, ModelId, Status, View
from peer.protocol.wire import PROTOCOL_VERSION
from peer.request_meter import RequestMeter
from peer.revocations import read_revoked, write_revoked
from peer.supply import Supply
from peer.trace_collector import TraceCollector
from peer.watchdog import Progress
from peer.zmq_transport import BULK, ControlSockets, DataSockets, ZmqContext
from runtime.memory import GiveBack
from runtime.plan import ModelPlan
from runtime.settings import SessionSettings

_log = logging.getLogger(__name__)
_DRAIN_S = 10.0
_SPEED_EVERY_S = 1.0
_SOUND_EVERY_S = 300.0  # between two looks at the link to one board
_SAME = 0.1  # a profile that differs by less is no news
_T = TypeVar("_T")


class DataPlaneCrash(PeerError):
    """The data plane's thread ended; the daemon ends with it, and whoever supervises it starts a new one."""


class Node:
    """Everything of one board. `run` serves until `stop` is set."""

    _compute: ComputeProcess
    _inference: Inference

    def __init__(self, config: PeerdConfig, version: str) -> None:
        self._config = config
        self._version = version
        self._started_at = time.monotonic()
        self._ready = False
        self._draining = False
        self._news = NewsLog()
        self.changed = asyncio.Event()  # set when `progress` has something new to say
        self._threads = config.threads or max(1, len(os.sched_getaffinity(0)) - 1)
        host, port = config.listen.host, config.listen.port
        if port > HIGHEST_PORT:
            raise ConfigError(f"port {port} leaves no room for the three ports above it; choose a lower one")
        self._lock = read_lock(config)
        fetched = config.state_dir / "models"
        self._catalog = Catalog(config.models, config.default_model, fetched=fetched)
        identity = next_identity(config.state_dir)
        self._cloned = identity.cloned
        self._acquaintances = Acquaintances(config.state_dir)
        self._view_changed = asyncio.Event()
        wildcard = host in ("0.0.0.0", "::", "*")
        self._me = Member(
            peer=identity.peer,
            name=config.name,
            # A board that listens everywhere leaves its host empty: others take the address its messages come from.
            endpoint=Endpoint(host="" if wildcard else host, port=port),
            public_key=identity.keys.public,
            incarnation=identity.incarnation,
            status=Status.ALIVE,
            models=frozenset(self._catalog),
        )
        self._encrypted = self._lock is not None
        self._keys = identity.keys if self._encrypted else None
        self._zmq = ZmqContext(self._keys)
        listen = self._listen = "" if wildcard else host
        self._control_sockets = ControlSockets(self._zmq, listen, port, self._lock.token if self._lock else None)
        self._bulk_sockets = DataSockets(self._zmq, listen, self._me.endpoint.bulk_port, BULK)
        self._lookout = self._make_lookout()

    def _make_lookout(self) -> Lookout | None:
        """Eyes for the LAN; none on loopback, where nobody else can be."""
        host = self._config.listen.host
        if self._lock is None or not self._config.mdns or host in LOOPBACK:
            return None
        announcement = Announcement(
            peer=self._me.peer,
            tag=cluster_tag(self._lock.token),
            version=PROTOCOL_VERSION,
            port=self._me.endpoint.port,
            hosts=(self._me.endpoint.host,) if self._me.endpoint.host else (),
        )
        discovery = MdnsDiscovery(announcement, allowed=self._config.interfaces)
        return Lookout(discovery, announcement, on_sighting=lambda at: self._control.handle(Sighted(address=at)))

    def _settings(self) -> SessionSettings:
        prepack = {Prepack.AUTO: None, Prepack.ON: True, Prepack.OFF: False}[self._config.prepack]
        return SessionSettings(threads=self._threads, spinning=self._config.spinning, prepack=prepack)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then drain, say goodbye, close. Raises when a part dies."""
        loop = asyncio.get_running_loop()
        crashed: asyncio.Future[None] = loop.create_future()
        self._build(loop, crashed)
        if self._catalog.default is None:
            _log.warning("%s; waiting for a board that has one", self._catalog.problem)
        await self._compute.start()
        self._bulk.start()
        self._on_view(self._control.view())
        try:
            administration = self._administration(stop)
            async with (
                control_server(self._api, self._config.socket, administration) as clients,
                self._observation.serve(self._config.metrics),
                asyncio.TaskGroup() as tasks,
            ):
                self._observation.refused_clients = clients.refused
                running = [
                    tasks.create_task(self._control.receive(), name="control-receive"),
                    tasks.create_task(self._control.receive_at_door(), name="door-receive"),
                    tasks.create_task(self._control.keep_time(), name="control-timer"),
                    tasks.create_task(self._watch(), name="watch"),
                    tasks.create_task(self._take_notes(), name="notes"),
                    tasks.create_task(self._supply.run(), name="supply"),
                    tasks.create_task(_forward(crashed), name="planes"),
                    tasks.create_task(self._compute.keep(), name="compute"),
                ]
                if self._lookout is not None:
                    running.append(tasks.create_task(self._lookout.announce(), name="announce"))
                    running.append(tasks.create_task(self._lookout.watch(), name="look-out"))
                self._ready = True
                self.changed.set()
                state = self._not_ready() or "ready"
                _log.info("%s: %s (%s) on %s", state, self._me.name, self._me.peer, self._config.listen)
                await stop.wait()
                await self._drain()
                for task in running:
                    task.cancel()
        finally:
            self._bulk.stop()
            await self._compute.finish()
            await asyncio.to_thread(self._bulk.join, 5.0)
            self._control_sockets.close()
            self._zmq.close()

    def _holdings(self) -> Holdings:
        return Holdings(folders=self._catalog.folders(), facts=self._catalog.facts(), usual=self._catalog.default)

    def _compute_setup(self) -> Setup:
        """What a compute process needs to know of this board as it is now."""
        return Setup(
            host=self._listen,
            port=self._me.endpoint.data_port,
            keys=self._keys,
            admitted=self._control.admitted(),
            view=self._control.view(),
            holdings=self._holdings(),
            settings=self._settings(),
            limits=RequestLimits(coordinated=self._config.max_requests, sound_every_s=_SOUND_EVERY_S),
        )

    def _build(self, loop: asyncio.AbstractEventLoop, crashed: asyncio.Future[None]) -> None:
        now = time.monotonic()
        seeds = tuple(Address(host=seed.host, port=seed.port) for seed in self._config.seeds)
        membership = Membership(
            me=self._me,
            seeds=seeds,
            remembered=self._acquaintances.read(),
            lock=self._lock,
            revoked=read_revoked(self._config.state_dir),
            pace=Pace(),
            rng=random.Random(),
            now=now,
        )
        self._control = ControlPlane(
            sockets=self._control_sockets,
            machine=membership,
            on_view=self._on_view,
            on_admit=lambda keys: self._compute.admit(keys),  # noqa: PLW0108 - it is built after this
            on_lock=self._on_lock,
            on_revoked=lambda peers: write_revoked(self._config.state_dir, peers),
            stuck_s=lambda: self._compute.stuck_s(),  # noqa: PLW0108
        )

        def crash(problem: BaseException) -> None:
            _on_loop(loop, lambda p: None if crashed.done() else crashed.set_exception(p), problem)

        self._compute = ComputeProcess(
            setup=self._compute_setup,
            on_deliver=lambda effect: self._inference.delivered(effect),  # noqa: PLW0108
            on_lost=lambda peer: self._control.handle(LinkBroke(peer=peer)),
            on_trace=lambda word: self._traces.heard(word),  # noqa: PLW0108
            on_change=self.changed.set,
        )
        self._traces = TraceCollector(
            ask=self._compute.collect,
            view=self._control.view,
            model_name=lambda model: self._api.model_name(model),  # noqa: PLW0108
        )
        meter = self._meter = RequestMeter(self._me.peer, now)
        self._inference = Inference(
            catalog=self._catalog, submit=self._compute.submit, view=self._control.view, meter=meter
        )
        self._observation = Observation(
            version=self._version,
            control=self._control,
            compute=self._compute,
            meter=meter,
            models=lambda: len(self._catalog),
            not_ready=self._not_ready,
            refused_handshakes=self._control_sockets.refused,
        )
        self._build_supply(loop, crash)
        self._api = self._make_api()

    def _build_supply(self, loop: asyncio.AbstractEventLoop, crash: Callable[[BaseException], None]) -> None:
        def given(model: ModelId) -> tuple[Path, ModelPlan] | None:
            place = self._catalog.place(model)
            return None if place is None else (place, self._catalog.plan(model))

        self._bulk = BulkPlane(
            sockets=self._bulk_sockets,
            view=self._control.view(),
            place=given,
            on_progress=lambda progress: _on_loop(loop, self._supply.progressed, progress),
            on_end=lambda result: _on_loop(loop, self._supply.ended, result),
            on_crash=crash,
        )
        self._supply = Supply(
            catalog=self._catalog,
            wanted=self._config.default_model,
            target=target_of(self._config.models, self._config.state_dir),
            view=self._control.view,
            submit=self._bulk.submit,
            on_models=self._on_models,
        )

    def _make_api(self) -> BoardApi:
        return BoardApi(
            standing=Standing(
                me=self._me,
                endpoint=str(self._config.listen),
                version=self._version,
                threads=self._threads,
                started_at=self._started_at,
            ),
            catalog=self._catalog,
            control=self._control,
            compute=self._compute,
            supply=self._supply,
            inference=self._inference,
            traces=self._traces,
            observation=self._observation,
            not_ready=self._not_ready,
            leaving=lambda: self._draining,
        )

    def _on_models(self) -> None:
        """The compute first: whoever hears of a model may assign a share of it at once."""
        self._compute.hold(self._holdings())
        self._control.handle(ModelsHeld(models=frozenset(self._catalog)))
        self.changed.set()

    def _not_ready(self) -> str | None:
        """Why this board cannot serve, or None."""
        if self._draining:
            return "leaving the ring"
        if not len(self._catalog):
            return f"{self._catalog.problem} (or wait: {self._supply.state})"
        if not self._compute.up:
            return "the compute process is starting again" if self._ready else "starting"
        return None if self._ready else "starting"

    def _on_view(self, view: View) -> None:
        self._news.tell(view.members)
        self._compute.submit(ViewChanged(view=view))
        self._view_changed.set()
        self.changed.set()
        self._bulk.submit(view)
        self._supply.stir()

    def _on_lock(self, lock: Lock) -> None:
        write_lock(self._config, lock)
        self._lock = lock
        if self._lookout is not None:
            self._lookout.change_tag(cluster_tag(lock.token))

    def _administration(self, stop: asyncio.Event) -> Administration:
        return Administration(
            config=self._config,
            membership=self._control,
            lock=lambda: self._lock,
            vitals=self._vitals,
            leave=stop.set,
        )

    def _vitals(self) -> Vitals:
        at_door, members = self._control_sockets.refused()
        default = self._catalog.default
        return Vitals(
            cloned=self._cloned,
            membership=self._control.machine_counters,
            data_plane={**self._compute.counters, "restarts": self._compute.restarts},
            stuck_s=self._compute.stuck_s(),
            refused_at_door=at_door,
            refused_members=members,
            looks_around=self._lookout is not None,
            discovery_problem=self._lookout.problem if self._lookout else None,
            strangers_seen=self._lookout.strangers if self._lookout else 0,
            models_problem=self._catalog.problem,
            model_bytes=0 if default is None else self._catalog.plan(default).size_bytes,
        )

    async def _watch(self) -> None:
        """What this board measures of itself, and the health of the parts that do not report themselves."""
        give_back, begun = GiveBack(), 0
        while True:
            await asyncio.sleep(_SPEED_EVERY_S)
            begun, before = self._inference.begun, begun
            give_back.look(worked=begun != before or bool(self._inference.busy), now=time.monotonic())
            if self._compute.speed is not None:
                self._control.set_speed(self._compute.speed)
            self._tell_profile()
            self._control_sockets.refused()
            self._observation.sample(time.monotonic())
            if not self._zmq.healthy():
                raise DataPlaneCrash("the authentication thread ended; nobody new could be admitted")

    def _tell_profile(self) -> None:
        """Let the others know what this board measured of itself, when that is news."""
        account = self._compute.account
        if account is None or not (account.profile.models or account.profile.rate):
            return
        told = self._control.view().members[self._me.peer].profile
        if told is None or not alike(told, account.profile, _SAME):
            self._control.handle(ProfileMeasured(profile=account.profile))

    async def _take_notes(self) -> None:
        """Note down who is here whenever that changes: soon, but never on the event loop, which a disk holds up."""
        while True:
            await self._view_changed.wait()
            self._view_changed.clear()
            await asyncio.to_thread(self._remember)  # the disk sets the pace

    def _remember(self) -> None:
        """Note down who is here, for the next start."""
        members = self._control.view().members.values()
        self._acquaintances.write(member for member in members if member.peer != self._me.peer)

    async def _drain(self) -> None:
        """Take no new requests, let those under way finish, then leave."""
        self._draining = True
        self.changed.set()
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self._inference.idle()
        except TimeoutError:
            _log.warning("%d requests were still under way after %g s", self._inference.busy, _DRAIN_S)
        self._control.handle(LeaveRequested())
        # The goodbyes are on their way to sockets that are about to close.
        await asyncio.sleep(0.05)

    def progress(self) -> Progress:
        """How this board is, for whoever supervises it."""
        default = self._catalog.default
        return Progress(
            boards=len(self._control.view().alive()),
            model=None if default is None else self._catalog.plan(default).name,
            not_ready=self._not_ready(),
            stopping=self._draining,
            compute_up=self._compute.up,
            step_s=self._compute.stuck_s(),
            silent_s=self._compute.silent_s(),
        )


def _on_loop(loop: asyncio.AbstractEventLoop, take: Callable[[_T], None], what: _T) -> None:
    """Pass something on from another thread; a loop that has ended needs nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(take, what)


async def _forward(crashed: asyncio.Future[None]) -> None:
    try:
        await crashed
    except asyncio.CancelledError:
        raise
    except BaseException as problem:
        raise DataPlaneCrash(f"a plane ended: {type(problem).__name__}: {problem}") from problem
