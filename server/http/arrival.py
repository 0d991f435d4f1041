"""When a request reached this machine: it may have waited in the kernel while the loop was busy."""

import asyncio
import socket
import sys
from math import inf
from struct import Struct

LAST_DATA_RECEIVED = Struct("=52xI")
"""Of Linux's `tcp_info`: milliseconds since the last bytes came, counted in ticks of 4 ms or less.
https://github.com/torvalds/linux/blob/master/include/uapi/linux/tcp.h"""
HALF_TICK_S = 0.002


def unread_s(transport: asyncio.Transport) -> float:
    """About how long the bytes that are read now have been here; infinite where none can say."""
    if sys.platform != "linux":
        return inf
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return inf
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED.size)
    except OSError:  # the connection is lost already
        return inf
    (milliseconds,) = LAST_DATA_RECEIVED.unpack(info)
    return float(milliseconds) / 1000 + HALF_TICK_S
