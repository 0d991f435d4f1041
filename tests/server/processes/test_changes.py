"""Changes of models, between the parent and a member that is no process here."""

import asyncio
import gc
import json
import socket
from types import SimpleNamespace
from typing import Any

from server.processes.changes import Changes
from server.processes.wire import Wire


def test_a_member_that_ends_while_it_loads_leaves_no_traceback() -> None:
    async def run() -> tuple[bytes, list[dict[str, Any]]]:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        child: Any = SimpleNamespace(number=0)
        changes = Changes(lambda: [child])
        child.wire = Wire(lambda request: changes.answer(child, request))
        near, far = socket.socketpair()
        far.setblocking(False)
        with far:
            await child.wire.open(near)
            speaking = asyncio.create_task(child.wire.run())
            call = {"call": 0, "body": ["change", "load", "digits", 1]}
            await loop.sock_sendall(far, json.dumps(call).encode() + b"\n")
            asked = await loop.sock_recv(far, 1000)
        await speaking
        await asyncio.sleep(0)
        gc.collect()
        return asked, complaints

    asked, complaints = asyncio.run(asyncio.wait_for(run(), 10))
    assert json.loads(asked) == {"call": 0, "body": ["do", "load", "digits", 1]}
    assert complaints == []


def test_the_index_of_no_ready_member_is_empty() -> None:
    child: Any = SimpleNamespace(number=0)
    assert asyncio.run(Changes(list).answer(child, ["index"])) == []
