"""Who may ask: the machine's own pages and programs, or those who know the token; no page of another site."""

import base64
import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dust.utils.errors import ConfigError

#: Paths that need no token: the page, which asks for it, and what a supervisor asks.
OPEN = frozenset({"/", "/page.css", "/page.js", "/show.js", "/health"})
#: The WebSocket subprotocol, and what stands before a token (base64url, without =) among the offered ones: a browser
#: can send no header of its own with a WebSocket.
PROTOCOL, TOKEN_PROTOCOL = "dust", "dust.token."
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Tell whether an address is heard on this machine alone. ConfigError for a name that means no address."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: means no address of this machine: try 127.0.0.1") from error
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


@dataclass(frozen=True)
class Guard:
    """Decides about a request by its headers.

    Attributes:
        loopback: the server is heard on this machine alone.
        token: that every request must carry; "" for none.
        names: of this server in addresses, beside its numbers; the machine's own ones are known.
    """

    loopback: bool = True
    token: str = field(default="", repr=False)
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.loopback and not self.token:
            raise ConfigError(
                "whoever reaches this address could use the model and fill this machine's disk: give a token "
                "(--token TOKEN, or DUST_TOKEN in the environment), or serve on 127.0.0.1"
            )

        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise ConfigError("the token must be of ASCII letters, digits and signs, without spaces")

    def refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return (status, reason) for a request that is not let in; None for one that is.

        Args:
            headers: names in lower case.
        """
        host = headers.get("host", "")
        if not self._is_mine(host):
            return 403, f"Host {host!r} is not this server's name; --allow-host adds one"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "a page of another site may not ask here"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            visit = path == "/" and headers.get("sec-fetch-mode") == "navigate"
            if not visit:  # a link that leads to the page is one
                return 403, "a page of another site may not ask here"
        if self.token and path not in OPEN and not self._knows(headers):
            return 401, "this server wants its token: Authorization: Bearer TOKEN"
        return None

    def _is_mine(self, host: str) -> bool:
        """Tell whether a Host is an address of this server. A name that somebody else has made point here is none;
        numbers belong to nobody else."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name in (one.lower() for one in self.names):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.loopback and name in (socket.gethostname().lower(), socket.getfqdn().lower())
        return address.is_loopback or not self.loopback

    def _knows(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = [given.strip()] if scheme.lower() == "bearer" else []
        for word in headers.get("sec-websocket-protocol", "").split(","):
            text = word.strip()
            if text.startswith(TOKEN_PROTOCOL):
                offered.append(_decoded(text.removeprefix(TOKEN_PROTOCOL)))
        expected = self.token.encode()
        return any(hmac.compare_digest(one.encode("utf-8", "replace"), expected) for one in offered)


def _decoded(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return ""


class GuardMiddleware:
    """Asks a :class:`Guard` about every request and WebSocket, and adds the headers of every answer (ASGI)."""

    def __init__(self, app: Any, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            name = key.decode("latin-1").lower()
            # several Host or Origin headers are no way around: what is joined is nobody's name
            headers[name] = f"{headers[name]},{value.decode('latin-1')}" if name in headers else value.decode("latin-1")

        async def send_with_headers(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        refused = self.guard.refusal(scope["path"], headers)
        if refused is None:
            await self.app(scope, receive, send_with_headers)
            return
        from starlette.responses import JSONResponse

        status, reason = refused
        more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await JSONResponse({"error": reason}, status, more)(scope, receive, send_with_headers)
