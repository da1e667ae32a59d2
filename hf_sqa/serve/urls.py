"""Reads recordings from URLs: from public addresses only, so that nobody can reach an internal network through the service."""

import asyncio
import ipaddress
import socket
from collections.abc import Collection

import httpx

from hf_sqa.scoring.items import Refusal

REDIRECTS = 3
TIMEOUT_SECONDS = 20.0
#: IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052).
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedURL(Exception):  # noqa: N818
    """Raised for a URL that is not read; `refusal` says why."""

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.refusal = Refusal("failed", code, reason)


async def fetch(url: str, max_bytes: int, private_hosts: Collection[str] = ()) -> bytes:
    """Return the content of an http(s) URL, of at most `max_bytes`; hosts in `private_hosts` may have a private address.

    The address is looked up once, and the connection goes to the address that was checked; every redirect is checked again. Proxies
    are not used.
    """
    for _ in range(REDIRECTS + 1):
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise RefusedURL("url_refused", "expected an http or https URL") from None
        if target.scheme not in {"http", "https"} or not target.host:
            raise RefusedURL("url_refused", f"expected an http or https URL, got the scheme {target.scheme!r}")
        address = await _public_address(target, private_hosts)
        try:
            async with (
                httpx.AsyncClient(transport=_Pinned(address), timeout=TIMEOUT_SECONDS, trust_env=False) as client,
                client.stream("GET", target, headers={"Accept-Encoding": "identity"}) as response,
            ):
                if response.has_redirect_location:
                    url = str(target.join(response.headers["location"]))
                    continue
                if response.status_code != 200:
                    raise RefusedURL("unreachable", f"the other server answered {response.status_code}; check the address")
                content = bytearray()
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > max_bytes:
                        raise RefusedURL("too_large", f"expected at most {max_bytes:,} bytes; send a shorter recording")
                return bytes(content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RefusedURL("unreachable", f"the download failed ({type(error).__name__}); check the address") from None
    raise RefusedURL("unreachable", f"it leads to another address more than {REDIRECTS} times")


class _Pinned(httpx.AsyncHTTPTransport):
    """Connects to the address that was checked, even if the name now resolves to another; certificates must match the name."""

    def __init__(self, address: str):
        super().__init__()
        self._address = address

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address)  # the header `Host` keeps the name
        return await super().handle_async_request(request)


async def _public_address(url: httpx.URL, private_hosts: Collection[str]) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RefusedURL("unreachable", f"there is no host {url.host!r} ({error})") from None
    addresses = [str(entry[4][0]) for entry in found]
    if url.host not in private_hosts and not all(map(_is_public, addresses)):
        raise RefusedURL("url_refused", f"the host {url.host!r} has a private address, which this service does not read")
    return addresses[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return _is_public(str(inner))
    return address.is_global and not address.is_multicast
