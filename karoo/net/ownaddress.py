"""The addresses of this machine."""

from __future__ import annotations

import socket

# Addresses that nobody has (RFC 5737, RFC 3849), and that a default route leads to.
_FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def towards_others(family: int) -> str | None:
    """The address, IPv4 or IPv6 by the socket family, that this machine uses towards others; None where it has no way
    there. A connected UDP socket tells it, and no packet is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((_FAR[socket.AddressFamily(family)], 9))
            return str(sock.getsockname()[0])
    except OSError:
        return None
