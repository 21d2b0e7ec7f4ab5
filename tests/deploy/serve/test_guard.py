"""Who is let in, by the headers of a request alone."""

import base64

import pytest

from dust.deploy.serve.guard import Guard, is_loopback
from dust.utils.errors import ConfigError


def status(guard, path="/model", **headers):
    """The status with which a request is refused; None for one that is let in."""
    given = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    refused = guard.refusal(path, given)
    return refused and refused[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9", "localhost.:80", "[::1]:8000", "127.3.2.1"]
)
def test_names_of_this_machine(host):
    assert status(Guard(), host=host) is None


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7",
     "8.8.8.8:8000", "127.0.0.1,evil.example", "[::1", "user@evil.example", "127.0.0.1@evil.example", "0.0.0.0"],
)  # fmt: skip
def test_names_that_somebody_else_made_point_here(host):
    assert status(Guard(), host=host) == 403


def test_names_that_were_given():
    guard = Guard(names=("dust.lab",))
    assert status(guard, host="dust.lab:8000") is None and status(guard, host="Dust.Lab") is None
    assert status(guard, host="other.lab") == 403


def test_an_open_address_takes_numbers_but_no_strange_names():
    guard = Guard(False, "secret", ())
    know = {"authorization": "Bearer secret"}
    assert status(guard, host="192.168.0.7:8000", **know) is None
    assert status(guard, host="evil.example", **know) == 403


@pytest.mark.parametrize(
    ("origin", "refused"),
    [("http://127.0.0.1:8000", None), ("https://127.0.0.1:8000", None), ("http://127.0.0.1:8001", 403), ("null", 403),
     ("http://localhost:8000", 403), ("http://evil.example", 403), ("", 403), ("http://127.0.0.1:8000.evil", 403),
     ("http://127.0.0.1:8000@evil.example", 403)],
)  # fmt: skip
def test_origins(origin, refused):
    assert status(Guard(), origin=origin) == refused


def test_what_a_browser_says_of_itself():
    guard = Guard()
    assert status(guard, sec_fetch_site="same-origin") is None and status(guard, sec_fetch_site="none") is None
    for site in ("cross-site", "same-site"):
        assert status(guard, sec_fetch_site=site) == 403
        assert status(guard, "/", sec_fetch_site=site, sec_fetch_mode="no-cors") == 403
        assert status(guard, "/", sec_fetch_site=site, sec_fetch_mode="navigate") is None
        assert status(guard, "/metrics", sec_fetch_site=site, sec_fetch_mode="navigate") == 403


@pytest.mark.parametrize("token", ["secret", "a.b-c_d~1", "a" * 300])
def test_tokens(token):
    guard = Guard(token=token)
    coded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    assert status(guard, authorization=f"Bearer {token}") is None
    assert status(guard, authorization=f"bearer {token}") is None
    assert status(guard, sec_websocket_protocol=f"dust, dust.token.{coded}") is None
    assert status(guard, "/") is status(guard, "/health") is None
    wrong = ["", "Bearer", "Bearer ", f"Bearer {token}x", f"Basic {token}", token, f"Bearer {token[:-1]}", "Bearer ü"]
    assert {status(guard, authorization=one) for one in wrong} == {401}
    for one in ("dust", "dust.token.", "dust.token.???", "dust.token.eHg", f"dust.token.{token}!"):
        assert status(guard, sec_websocket_protocol=one) == 401
    assert token not in repr(guard)


def test_an_open_address_needs_a_token():
    with pytest.raises(ConfigError, match="DUST_TOKEN"):
        Guard(False)
    for token in ("two words", "münchen", "a\nb"):
        with pytest.raises(ConfigError, match="ASCII"):
            Guard(token=token)


def test_which_addresses_are_heard_here_alone():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("127.9.9.9")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.0.7")
    with pytest.raises(ConfigError, match="means no address"):
        is_loopback("no such host")
