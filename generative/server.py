"""The cloud: ``python -m generative.server [--ip 0.0.0.0] [--image_size 128 --width 1 ...]``."""

from common.codec import load_own, make_codec
from common.command import run_command
from common.config import parse
from common.training.serve import Server
from common.wire.security import server_security
from discriminative.options import check_ports
from generative.options import ServerOptions
from generative.recipe import WORKLOAD, make_recipe


def main() -> None:
    """Serve sessions until interrupted."""
    options = parse(ServerOptions)
    options.prepare()
    options.check()
    check_ports(port=options.port, hyperport=options.hyperport)
    security = server_security(options.ip, options.security, insecure=options.insecure)
    for codec in options.own_codec:
        make_codec(load_own(codec))
    server = Server(
        {WORKLOAD: make_recipe()},
        pinned=options.pinned,
        ip=options.ip,
        port=options.port,
        hyperport=options.hyperport,
        device=options.device,
        queue_limit=options.queue_limit,
        run_dir=options.run_dir,
        codec_memory_mb=options.codec_memory_mb,
        security=security,
        max_sessions=options.max_sessions,
        away_s=options.away_s,
    )
    print(f"listening on {options.ip}, port {server.port}, hyperport {server.hyperport}", flush=True)
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    run_command(main, until_stopped=True)
