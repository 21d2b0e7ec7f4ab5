"""Answer about videos over HTTP, and on a page in the browser.

dust serve runs/kitchen
dust serve runs/kitchen --files /data/clips
DUST_TOKEN=... dust serve runs/kitchen --host 0.0.0.0 --port 8000

MODEL is what `dust predict` takes. The page is at the address that is printed; programs send a video to /predict and
frames to /stream, and /openapi.json describes both. Ctrl-C ends it.
"""

import argparse
import contextlib
import logging
import math
import os
import socket
import ssl
import sys
from typing import Any

from dust.cli.command import command
from dust.utils.errors import ConfigError, DustError


def add_arguments(top: argparse.ArgumentParser) -> None:
    top.add_argument("model", metavar="MODEL", help="run folder, checkpoint, exported file, or zoo://NAME")
    top.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (127.0.0.1: this machine alone)"
    )
    top.add_argument("--port", type=int, default=8000, help="0: any that is free (8000)")
    who = top.add_argument_group("who may ask, and for what")
    who.add_argument(
        "--token", default="", metavar="TOKEN", help="each request must carry it; better: DUST_TOKEN in the environment"
    )
    who.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="this server's name in addresses; repeatable"
    )
    who.add_argument("--files", default="", metavar="DIR", help="videos under DIR may be named instead of sent")
    who.add_argument("--tls-cert", default="", metavar="FILE", help="certificate (PEM): https instead of http")
    who.add_argument("--tls-key", default="", metavar="FILE", help="its private key, where that is another file")
    most = top.add_argument_group("how much at once")
    most.add_argument("--max-mb", type=float, default=512, metavar="MB", help="of an upload (512)")
    most.add_argument("--max-minutes", type=float, default=10, metavar="MIN", help="of a video (10)")
    most.add_argument("--timeout", type=float, default=120, metavar="S", help="seconds for a request (120)")
    most.add_argument(
        "--queue", type=int, default=32, metavar="N", help="requests under way; one more is sent away (32)"
    )
    how = top.add_argument_group("how it answers")
    how.add_argument("--threshold", type=float, default=0.0, metavar="P", help='below P: "none of these"')
    how.add_argument("--calibrated", action="store_true", help="probabilities by the temperature of the run's test")
    how.add_argument("--window", type=float, default=0.0, metavar="S", help="of timelines (the training's length)")
    how.add_argument("--stride", type=float, default=0.0, metavar="S", help="of timelines (half a window)")
    how.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 (default auto)")
    how.add_argument("--dtype", default="", choices=("float32", "bfloat16", "float16"), help="of forward passes")
    how.add_argument("--batch-size", type=int, default=0, metavar="N", help="views at once (default: as tested)")
    how.add_argument("--workers", type=int, default=None, metavar="N", help="threads that read (default: up to 4)")
    how.add_argument("--procedure", default="", metavar="NAME", help="what recordings show, of those that were trained")
    how.add_argument("--cfg", dest="config", default="", metavar="YAML", help="for weights that hold no configuration")
    how.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="other values of keys")


def check(args: argparse.Namespace) -> None:
    """Raise a DustError with all that is wrong with the words."""
    problems = []
    if not 0 <= args.threshold <= 1:
        problems.append(f"--threshold {args.threshold}: a probability from 0 to 1")
    if not 0 <= args.port < 65536:
        problems.append(f"--port {args.port}: from 0 to 65535")
    if args.batch_size < 0:
        problems.append(f"--batch-size {args.batch_size}: must be at least 1")
    if args.workers is not None and args.workers < 1:
        problems.append(f"--workers {args.workers}: must be at least 1")
    for name in ("max_mb", "max_minutes", "timeout", "queue"):
        if not 0 < getattr(args, name) < math.inf:
            problems.append(f"--{name.replace('_', '-')} {getattr(args, name)}: must be a number above 0")
    for name in ("window", "stride"):
        if not 0 <= getattr(args, name) < math.inf:
            problems.append(f"--{name} {getattr(args, name)}: seconds, 0 or more")
    if args.files and not os.path.isdir(args.files):
        problems.append(f"--files {args.files}: there is no such folder")
    if args.tls_key and not args.tls_cert:
        problems.append("--tls-key needs --tls-cert FILE")
    problems += tls_problems(args.tls_cert, args.tls_key)
    for name in (args.tls_cert, args.tls_key):
        if name and not os.path.isfile(name):
            problems.append(f"{name}: there is no such file")
    if problems:
        raise DustError("; ".join(problems))


def tls_problems(cert: str, key: str) -> list[str]:
    """Return what is wrong with files that are there."""
    if not os.path.isfile(cert) or (key and not os.path.isfile(key)):
        return []
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key or None)
    except OSError as error:
        return [f"--tls-cert {cert}: no certificate with its private key (PEM): {error}"]
    return []


def run(args: argparse.Namespace) -> None:
    check(args)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dust.utils.checkpoint").setLevel(logging.ERROR)  # heads of other stages, which nobody needs
    from dust.deploy.serve.guard import Guard, is_loopback

    token = args.token or os.environ.get("DUST_TOKEN", "")
    guard = Guard(is_loopback(args.host), token, tuple(args.allow_host))
    with contextlib.closing(listen(args.host, args.port)) as ear:  # before the model is loaded, which takes a while
        server = build(args, guard)
        host, port = ear.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if args.tls_cert else "http"
        sys.stdout.write(f"{args.model}: {scheme}://{shown}:{port}/ (Ctrl-C ends it)\n")
        sys.stdout.flush()
        server.run(sockets=[ear])


def build(args: argparse.Namespace, guard: Any) -> Any:
    """Return the server that the words describe."""
    from dust.deploy.loading import load
    from dust.deploy.serve.app import build_app, build_server, check_extra
    from dust.deploy.serve.limits import Limits
    from dust.deploy.serve.service import Service

    check_extra()
    model = load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        threshold=args.threshold,
        overrides=args.opts,
        config=args.config,
        procedure=args.procedure,
        calibrated=args.calibrated,
    )
    limits = Limits(args.max_mb, args.max_minutes, args.timeout, args.queue)
    service = Service(model, limits, files=args.files, workers=args.workers, window=args.window, stride=args.stride)
    return build_server(build_app(service, guard), tls_cert=args.tls_cert, tls_key=args.tls_key)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. ConfigError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: cannot be listened at ({reason}): name another") from error


main = command("serve", __doc__, add_arguments, run)
