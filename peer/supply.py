"""What this board fetches from its neighbours, and what becomes of it: chosen, fetched, loaded, announced.

A board without any model gets the one that most boards hold, or the one that its configuration names, by itself and
again and again until it has it; any other model when a person asks. Lives on the event loop; one fetch at a time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from peer.bulk_plane import Fetched, Wanted
from peer.catalog import Catalog
from peer.errors import NoSuchModel, NotFetched, Refused, RequestError
from peer.protocol.fetch_parts import FetchProgress
from peer.protocol.holders import holding, most_held
from peer.protocol.types import ModelId, View
from peer.reports import FetchReport
from runtime.errors import RuntimeFailure
from runtime.plan import ModelPlan

_log = logging.getLogger(__name__)
# Who greets first may be an odd one: a moment shows what most boards hold.
_SETTLE_S = 0.3
_RETRY_FIRST_S = 1.0
_RETRY_LAST_S = 30.0
_MAX_ASKED = 16
_MAX_ELSEWHERE = 64
_LOOK_UP_S = 3.0  # that a list of models waits for what other boards say of theirs
_ID_DIGITS = 8  # that a name must have to stand for an id
_NOTHING = FetchProgress(done_bytes=0, total_bytes=0, resumed_bytes=0, received_bytes=0, boards=0)


class Supply:
    """The models that come to one board."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        wanted: str | None,
        target: Path,
        view: Callable[[], View],
        submit: Callable[[Wanted], None],
        on_models: Callable[[], None],
    ) -> None:
        """`wanted` is the configured default model; `on_models` hears that the catalog holds more than before."""
        self._catalog = catalog
        self._wanted = wanted
        self._target = target
        self._view = view
        self._submit = submit
        self._on_models = on_models
        self._plans: dict[ModelId, ModelPlan] = {}  # of models that other boards hold, as far as somebody asked
        self._curious = False
        self._looked = asyncio.Event()
        self._asked: list[str] = []
        self._stirred = asyncio.Event()
        self._ended: asyncio.Future[Fetched] | None = None
        self._doing: str | None = None
        self._progress = _NOTHING
        self._started_at = 0.0
        self._done: dict[ModelId, tuple[FetchProgress, float]] = {}
        self._failed: dict[str, RequestError] = {}

    @property
    def state(self) -> str:
        """One phrase for a person whom this board cannot serve yet."""
        if self._doing is None:
            return "no other board that holds one is here"
        if not self._progress.total_bytes:
            return "it is being fetched"
        return f"it is being fetched: {100 * self._progress.done_bytes // self._progress.total_bytes} % are here"

    def stir(self) -> None:
        """The view changed: there may be a holder now."""
        self._stirred.set()

    def progressed(self, progress: FetchProgress) -> None:
        self._progress = progress

    def ended(self, result: Fetched | NotFetched) -> None:
        """The bulk plane is through with what it was given."""
        if self._ended is None or self._ended.done():
            return
        if isinstance(result, NotFetched):
            self._ended.set_exception(result)
        else:
            self._ended.set_result(result)

    async def run(self) -> None:
        """Work for ever."""
        retry_s = _RETRY_FIRST_S
        while True:
            self._stirred.clear()
            if self._asked:
                await self._on_demand(self._asked[0])
                continue
            if self._curious:
                self._curious = False
                await self._look_up()
                self._looked.set()
                continue
            if len(self._catalog) or most_held(self._view()) is None:
                await self._stirred.wait()
                continue
            await asyncio.sleep(_SETTLE_S)
            try:
                await self._fetch(await self._choose())
            except RequestError as problem:
                level = logging.WARNING if retry_s == _RETRY_FIRST_S else logging.DEBUG
                _log.log(level, "no model yet: %s", problem)
                await self._pause(retry_s)
                retry_s = min(2 * retry_s, _RETRY_LAST_S)

    async def fetch(self, name: str) -> FetchReport:
        """Start to fetch a model, or tell how far it is; raises why it failed, once. Ask again to see it advance."""
        held = self._held(name)
        if held is not None:
            progress, seconds = self._done.get(held, (_NOTHING, 0.0))
            return self._report(name, progress, seconds, model=held)
        failure = self._failed.pop(name, None)
        if failure is not None:
            raise failure
        if name not in self._asked:
            if len(self._asked) >= _MAX_ASKED:
                raise Refused(f"{len(self._asked)} models are waited for already; try again when they are here")
            self._asked.append(name)
            self._stirred.set()
        mine = self._doing is not None and self._asked[0] == name
        return self._report(name, self._progress if mine else _NOTHING, time.monotonic() - self._started_at)

    async def elsewhere(self) -> dict[ModelId, ModelPlan | None]:
        """Models that only other boards hold; None where the manifest did not come in time."""
        if self._unknown():
            self._looked.clear()
            self._curious = True
            self._stirred.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_UP_S):
                    await self._looked.wait()
        return {model: self._plans.get(model) for model in self._others()}

    def _others(self) -> list[ModelId]:
        view = self._view()
        named = {model for member in view.members.values() for model in member.models} - set(self._catalog)
        return sorted(model for model in named if holding(view, model))[:_MAX_ELSEWHERE]

    def _unknown(self) -> list[ModelId]:
        return [model for model in self._others() if model not in self._plans]

    async def _look_up(self) -> None:
        """Get the manifests of models that only other boards hold."""
        others = set(self._others())
        self._plans = {model: plan for model, plan in self._plans.items() if model in others}
        for model in self._unknown():
            try:
                await self._name(model)
            except RequestError as problem:
                _log.debug("model %s is not described by any board: %s", model, problem)

    def _held(self, name: str) -> ModelId | None:
        for model in self._catalog:
            if self._catalog.plan(model).name == name or (len(name) >= _ID_DIGITS and model.startswith(name)):
                return model
        return None

    def _report(
        self, name: str, progress: FetchProgress, seconds: float, *, model: ModelId | None = None
    ) -> FetchReport:
        return FetchReport(
            model=name if model is None else self._catalog.plan(model).name,
            model_id=model,
            done=model is not None,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            received_bytes=progress.received_bytes,
            resumed_bytes=progress.resumed_bytes,
            boards=progress.boards,
            seconds=seconds,
        )

    async def _on_demand(self, name: str) -> None:
        try:
            if self._held(name) is None:
                await self._fetch(await self._named(name))
        except RequestError as problem:
            self._failed = dict(list(self._failed.items())[-_MAX_ASKED:]) | {name: problem}
        finally:
            self._asked.remove(name)

    async def _choose(self) -> ModelId:
        if self._wanted is not None:
            return await self._named(self._wanted)
        model = most_held(self._view())
        if model is None:
            raise NotFetched("no board that holds a model is alive; see peerctl members")
        return model

    async def _named(self, name: str) -> ModelId:
        """The id of a model of the ring by its name, or by the beginning of its id."""
        view = self._view()
        others = {model for member in view.members.values() for model in member.models if holding(view, model)}
        for model in sorted(others):
            if len(name) >= _ID_DIGITS and model.startswith(name):
                return model
        problem: RequestError | None = None
        for model in sorted(others - set(self._catalog)):
            try:
                if await self._name(model) == name:
                    return model
            except RequestError as exc:
                problem = exc
        if problem is not None:
            raise problem
        known = ", ".join(sorted({self._plans[model].name for model in others if model in self._plans})) or "none"
        raise NoSuchModel(f"no board that is here holds a model {name}; they hold {known}")

    async def _name(self, model: ModelId) -> str:
        if model not in self._plans:
            self._plans[model] = (await self._ask(Wanted(model=model, target=None))).plan
        return self._plans[model].name

    async def _fetch(self, model: ModelId) -> None:
        """Get it, load it in another thread, and only then tell anybody."""
        if model in self._catalog:
            return
        self._doing, self._progress, self._started_at = model, _NOTHING, time.monotonic()
        try:
            fetched = await self._ask(Wanted(model=model, target=self._target))
            if fetched.place is None:
                raise NotFetched("the model was not put into its place; fetch it again")
            try:
                await asyncio.to_thread(self._catalog.add, fetched.place)
            except RuntimeFailure as problem:
                raise NotFetched(f"the model is here and cannot be used: {problem}") from problem
        finally:
            self._doing = None
        seconds = time.monotonic() - self._started_at
        progress = fetched.progress
        self._done[model] = (progress, seconds)
        _log.info(
            "model %s is here: %d of %d bytes from %d boards in %.1f s, %d were here before",
            fetched.plan.name,
            progress.received_bytes,
            progress.total_bytes,
            progress.boards,
            seconds,
            progress.resumed_bytes,
        )
        self._on_models()

    async def _ask(self, wanted: Wanted) -> Fetched:
        """One fetch by the bulk plane."""
        self._ended = asyncio.get_running_loop().create_future()
        self._submit(wanted)
        return await self._ended

    async def _pause(self, seconds: float) -> None:
        """Until it is time to try again, or there is something new."""
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
