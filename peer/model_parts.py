"""Parts of a model's files as they lie on the disk, for boards that fetch it; the plan alone names the files."""

import os
import stat
from pathlib import Path

from peer.protocol.bulk_messages import MANIFEST, FetchChunk, FetchRefusal, FetchRequest
from peer.protocol.types import PeerId
from runtime.plan import ModelPlan


def read_part(folder: Path, plan: ModelPlan, request: FetchRequest, *, me: PeerId) -> FetchChunk | FetchRefusal:
    """The part that is asked for, at most as many bytes as there are; or why there is none."""
    if request.file > len(plan.files):
        return FetchRefusal.NO_SUCH_PART
    listed = None if request.file == MANIFEST else plan.files[request.file - 1]
    try:
        # O_NONBLOCK: a pipe that was put there must not hang; it is no regular file either.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(folder / ("manifest.json" if listed is None else listed.name), flags)
    except OSError:
        return FetchRefusal.UNREADABLE
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or (listed is not None and found.st_size != listed.size_bytes):
            return FetchRefusal.UNREADABLE
        if request.offset >= found.st_size:
            return FetchRefusal.NO_SUCH_PART
        length = min(request.length, found.st_size - request.offset)
        body = os.pread(handle, length, request.offset)
    except OSError:
        return FetchRefusal.UNREADABLE
    finally:
        os.close(handle)
    if len(body) != length:
        return FetchRefusal.UNREADABLE
    return FetchChunk(
        sender=me,
        request=request.request,
        model=request.model,
        file=request.file,
        offset=request.offset,
        size=found.st_size,
        body=body,
    )
