"""Identifiers: one NewType a noun, and the UUIDs (version 7) that fill them."""

import os
import threading
import time
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", str)
KeyId = NewType("KeyId", str)
AuthenticationId = NewType("AuthenticationId", str)
SourceId = NewType("SourceId", str)
DestinationId = NewType("DestinationId", str)
TransformationId = NewType("TransformationId", str)
TaskId = NewType("TaskId", str)
PoolId = NewType("PoolId", str)
JobId = NewType("JobId", str)
ExecutionId = NewType("ExecutionId", str)
RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
UploadId = NewType("UploadId", str)
ChunkId = NewType("ChunkId", str)
HookId = NewType("HookId", str)
TriggerId = NewType("TriggerId", str)
ServerId = NewType("ServerId", str)

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return a new UUID, version 7: sorted by creation within this process (RFC 9562)."""
    global _last
    with _lock:
        # 48 bits of milliseconds and 12 bits below them: two ids of one process never tie.
        _last = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        stamp = _last
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | tail
    return str(UUID(int=value))


def is_id(text: str) -> bool:
    """Tell whether `text` is written as a UUID; anything else cannot name a thing of ours."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
