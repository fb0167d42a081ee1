"""How graphs are executed: a choice that is made far from where they are, so it needs nothing of onnxruntime."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How graphs are executed.

    threads: intra-op threads of each large graph. onnxruntime's Python API can share one pool between sessions, but
        that pool always spins (measured: 20 ms instead of 1.7 ms of CPU per run of twelve graphs), so pools are per
        session: a model of L blocks holds (2L + 2) * (threads - 1) idle threads. Mind a service's TasksMax.
    spinning: busy waiting between operators: some latency less, a busy core more. Off unless a board was measured.
    prepack: True copies weights into the layout the kernels like best (faster by a fifth, private memory), False leaves
        them memory-mapped and shared through the page cache. None lets `Model.load` choose by free memory, and leaves
        a `Stage` of its own memory-mapped.
    """

    threads: int = 1
    spinning: bool = False
    prepack: bool | None = None
