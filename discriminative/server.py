"""The cloud: ``python -m discriminative.server [--ip 0.0.0.0] [--model VGG19 ...]``."""

from common.codec import load_own, make_codec
from common.command import run_command
from common.config import parse
from common.models.first_weights import first_weights
from common.models.own import choose_model
from common.training.optimizers import find_preset
from common.training.serve import Server
from common.training.sharing import Share
from common.wire.security import server_security
from discriminative.options import check_ports
from discriminative.recipe import WORKLOAD, make_recipe
from discriminative.server_options import ServerOptions


def main() -> None:
    """Serve sessions until interrupted."""
    options = parse(ServerOptions)
    options.prepare()
    options.check()
    check_ports(port=options.port, hyperport=options.hyperport)
    security = server_security(options.ip, options.security, insecure=options.insecure)
    pinned = {
        name: value
        for name in ("model", "num_classes", "splits", "split_index", "optim")
        if (value := getattr(options, name)) is not None
    }
    # An unknown name is better told now than to every client.
    chosen = None if options.model is None else choose_model(options.model)
    if chosen is not None:
        pinned["model"] = chosen.name
    for codec in options.own_codec:
        make_codec(load_own(codec))
    if options.optim is not None:
        find_preset(options.optim)
    server = Server(
        {WORKLOAD: make_recipe(chosen, first_weights(options.pretrained, options.weights))},
        pinned=pinned,
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
        share=Share(options.share),
        clients=options.clients,
    )
    print(f"listening on {options.ip}, port {server.port}, hyperport {server.hyperport}", flush=True)
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    run_command(main, until_stopped=True)
