"""Calls between the parent and a member, both ways: JSON lines over a pair of sockets."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

LIMIT_BYTES = 2**24
"""Limit of one line; the longest is a list of all models."""


class WireClosed(Exception):
    """The other process has ended."""


class Wire:
    """One end. `handle` answers the calls of the other end; it raises nothing but WireClosed."""

    def __init__(self, handle: Callable[[Any], Awaitable[Any]]) -> None:
        self._handle = handle
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened, self._is_closed = asyncio.Event(), False

    async def call(self, request: object) -> Any:  # noqa: ANN401
        """Calls the other end and waits for its answer; raises WireClosed."""
        await self._opened.wait()
        if self._is_closed:
            raise WireClosed
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._write({"call": number, "body": request})
        return await answer

    async def open(self, sock: socket.socket) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=LIMIT_BYTES)
        self._opened.set()

    async def run(self) -> None:
        """Reads until the other process has ended."""
        try:
            while line := await self._reader.readline():
                said = json.loads(line)
                if "call" in said:
                    task = asyncio.create_task(self._answer(said["call"], said["body"]))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif not (waiting := self._waiting.pop(said["answer"])).done():
                    waiting.set_result(said["body"])
        except ConnectionError:
            pass
        finally:
            self._close()

    async def _answer(self, number: int, request: object) -> None:
        with suppress(WireClosed):  # the caller has ended: it had to do something for its answer
            self._write({"answer": number, "body": await self._handle(request)})

    def _write(self, message: dict[str, object]) -> None:
        if not self._is_closed:
            self._writer.write(json.dumps(message).encode() + b"\n")

    def _close(self) -> None:
        self._is_closed = True
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WireClosed())
        self._waiting.clear()
