"""URLs of images, sounds and videos in requests: which of them an engine may fetch, and from which addresses.

Whoever sends a request chooses what a machine inside our network asks for. So no URL is fetched but from the hosts that
the model's `allowed_media_domains` names, and never from an address that is not on the public internet. It is said
early here, in words; deployments/media.py holds it where the connection is made.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

MEMBERS = ("image_url", "audio_url", "video_url")
"""Of a part of a message's content: the URL, or an object with it as `url`."""

ANY_HOST = "*"

NAT64 = ipaddress.ip_network("64:ff9b::/96")
PLATFORM = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Azure's, for its virtual machines alone, though it looks public."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def media_fault(body: dict[str, Any], allowed: Sequence[str]) -> tuple[str, str] | None:
    """The place of the first URL that must not be fetched, such as `messages[0].content[1].image_url`, and why."""
    for place, url in _urls(body):
        if (why := refusal(url, allowed)) is not None:
            return place, why
    return None


def refusal(url: str, allowed: Sequence[str]) -> str | None:
    """Why the URL must not be fetched; None: it may be, or there is nothing to fetch (`data:`)."""
    if url[:5].lower() == "data:":
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "This is not a URL."
    if parts.scheme not in ("http", "https") or not host:
        return "A URL of media must begin with https://, http:// or data:."
    return host_refusal(host, allowed)


def host_refusal(host: str, allowed: Sequence[str]) -> str | None:
    """Why nothing may be fetched from the host, as far as its name tells."""
    try:
        if not is_public(host):
            return f"The address {host} is not on the public internet, so no media are fetched from it."
    except ValueError:  # a name
        pass
    if ANY_HOST in allowed or host.lower() in allowed:
        return None
    return (
        f"No media are fetched from {host[:255]!r} for this model. Send the content itself, as a data: URL, or have "
        "the host added to the model's allowed_media_domains."
    )


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet. Raises ValueError for what is no IP address."""
    parsed = _inner(ipaddress.ip_address(address.partition("%")[0]))
    return parsed.is_global and not parsed.is_multicast and parsed not in PLATFORM


def _inner(address: Address) -> Address:
    """The address of IPv4 that one of IPv6 stands for, where it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def _urls(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for member in ("messages", "input"):
        items = body.get(member)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            yield from _urls_of_item(f"{member}[{index}]", item)


def _urls_of_item(place: str, item: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(item, dict):
        return
    yield from _urls_of_part(place, item)
    for name in ("content", "output"):
        parts = item.get(name)
        if isinstance(parts, list):
            for index, part in enumerate(parts):
                yield from _urls_of_part(f"{place}.{name}[{index}]", part)
        else:
            yield from _urls_of_part(f"{place}.{name}", parts)


def _urls_of_part(place: str, part: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(part, dict):
        return
    for member in MEMBERS:
        value = part.get(member)
        if isinstance(value, str):
            yield f"{place}.{member}", value
        elif isinstance(value, dict) and isinstance(url := value.get("url"), str):
            yield f"{place}.{member}.url", url
