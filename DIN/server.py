"""The top model: ``python -m DIN.server [--ip 0.0.0.0 --portA 1883 --portB 1885]``."""

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.training.serve import Server
from common.wire.security import server_security
from DIN.options import ServerOptions
from DIN.recipe import RECIPE, WORKLOAD
from DIN.samples import load_clicks
from DIN.server_labels import ServerLabels
from discriminative.shared_options import check_ports


def main() -> None:
    """Serve runs until interrupted."""
    options = parse(ServerOptions)
    options.prepare()
    check_ports(portA=options.portA, portB=options.portB, hyperport=options.hyperport)
    if not options.away_s >= 0:
        raise UsageError(f"--away_s is {options.away_s}; it must be 0 or more")
    security = server_security(options.ip, options.security, insecure=options.insecure)
    labels = None
    if options.dataset or options.dataset_path is not None:
        clicks = load_clicks(options.dataset, options.dataset_path, options.seed)
        labels = ServerLabels(clicks, options.salt.encode(), options.run_dir)
    # One listener serves all parties, where both are given the same port.
    others = () if options.portA == options.portB != 0 else (options.portB,)
    server = Server(
        {WORKLOAD: RECIPE},
        pinned={},
        ip=options.ip,
        port=options.portA,
        hyperport=options.hyperport,
        device=options.device,
        queue_limit=options.queue_limit,
        run_dir=options.run_dir,
        codec_memory_mb=options.codec_memory_mb,
        security=security,
        away_s=options.away_s,
        more_ports=others,
        port_flags=("--portA", "--portB")[: 1 + len(others)],
        labels=labels,
    )
    port_b = (*server.more_ports, server.port)[0]
    print(
        f"listening on {options.ip}, portA {server.port}, portB {port_b}, hyperport {server.hyperport}",
        flush=True,
    )
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    run_command(main, until_stopped=True)
