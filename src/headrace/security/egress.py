"""The egress guard: where the server may connect to, judged after the name is resolved.

Link-local addresses (cloud metadata among them) are always refused. When the server listens on
loopback only, everything else is open; when it listens on the network, loopback and private ranges
need HEADRACE_EGRESS_ALLOW.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.domain.errors import Denied, Invalid, Unavailable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read comma-separated networks. Raises Invalid, naming the setting."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise Invalid(
            f"HEADRACE_EGRESS_ALLOW: {error}.", hint="Write networks such as 10.0.0.0/8,::1/128."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """`open_inside`: loopback and private ranges may be reached."""

    open_inside: bool
    allow: Sequence[Network] = field(default=())

    def address(self, host: str, port: int) -> str:
        """Resolve `host` and return the address to dial. Raises Denied or Unavailable."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise Unavailable(
                f"The host {host!r} cannot be found.", hint="Check its name, or the DNS."
            ) from error
        for *_, address in found:
            self.judge(host, str(address[0]))
        return str(found[0][4][0])

    def judge(self, host: str, address: str) -> None:
        """Raise Denied if `address`, which `host` leads to, is out of bounds."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or _is_metadata(ip):
            raise Denied(f"{host} leads to {ip}, which is never fetched from.", field="input.url")
        if ip.is_global or self.open_inside or any(ip in network for network in self.allow):
            return
        raise Denied(
            f"{host} leads to the private address {ip}.",
            hint="Allow it with HEADRACE_EGRESS_ALLOW (networks, comma-separated).",
            field="input.url",
        )


def _is_metadata(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return str(ip) in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")
