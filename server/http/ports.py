"""Sockets on the port, for every family of addresses that the host stands for."""

import errno
import logging
import socket

from server.settings import SettingsError

logger = logging.getLogger("offramp")
BACKLOG = 2048
GRPC_PORT = "--grpc-port"
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address, or of a family of addresses, that the machine does not have."""


def reserved(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep gRPC's port, which processes share; raises SettingsError if it is taken.

    Two servers that share their ports would take each other's clients.
    """
    for sock in bound(host, port, flag=GRPC_PORT):
        sock.close()
    return shared(host, port)


def shared(host: str, port: int) -> list[socket.socket]:
    """The same as `bound`, for gRPC's port, which other processes of this server bind as well."""
    return bound(host, port, socket.SO_REUSEPORT, GRPC_PORT)


def bound(
    host: str, port: int, option: int = socket.SO_REUSEADDR, flag: str = "--port"
) -> list[socket.socket]:
    """Sockets on every address of the host that this machine has; they do not listen yet.

    A host may be a name, an address, or an IPv6 address in brackets; `::` takes IPv4 as well.
    Raises SettingsError, which names host and port, where the port cannot be had, and `flag`, where
    it is taken.
    """
    sockets: list[socket.socket] = []
    name = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, (address, *rest) in dict.fromkeys(found):
            if sockets:  # port 0 has become one by now
                rest[0] = sockets[0].getsockname()[1]
            try:
                whole = (address, *rest)
                sockets.append(bound_to(family, whole, option, is_for_both=len(found) == 1))
            except OSError as error:
                if len(found) == 1 or error.errno not in ABSENT:
                    raise
    except UnicodeError as error:
        raise SettingsError(f"cannot listen on {host}: it is no name of a host") from error
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise SettingsError(
            f"cannot listen on {host} port {port}: {reason(error, flag)}"
        ) from error
    if not sockets:
        raise SettingsError(f"cannot listen on {host} port {port}: none of its addresses is here")
    return sockets


def bound_to(
    family: socket.AddressFamily, address: tuple[object, ...], option: int, *, is_for_both: bool
) -> socket.socket:
    """A socket on one address, and where that is `::`, on IPv4's too if asked."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_for_both)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def listen(sockets: list[socket.socket]) -> None:
    """Lets clients connect; raises SettingsError where another server has the port."""
    try:
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as error:
        raise SettingsError(f"cannot listen on {urls(sockets)}: {reason(error)}") from error
    logger.info("listening on %s", urls(sockets))


def reason(error: OSError, flag: str = "--port") -> str:
    """Why a port cannot be had, and which option takes another where it is taken."""
    hint = f"; {flag} takes another" if error.errno == errno.EADDRINUSE else ""
    return f"{error.strerror}{hint}"


def urls(sockets: list[socket.socket]) -> str:
    """Where clients find the server."""
    said = []
    for sock in sockets:
        address, port = sock.getsockname()[:2]
        said.append(f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}")
    return ", ".join(said)
