"""The cloud: ``python -m discriminative.server [--ip 0.0.0.0] [--model VGG19 ...]``."""

from common.command import run_command
from common.config import parse
from common.models.first_weights import first_weights
from common.models.own import choose_model
from common.training.optimizers import find_preset
from common.training.sharing import Share
from discriminative.recipe import WORKLOAD, make_recipe
from discriminative.server_options import ServerOptions


def main() -> None:
    """Serve sessions until interrupted."""
    options = parse(ServerOptions)
    options.prepare()
    options.check()
    pinned = {
        name: value
        for name in ("model", "num_classes", "splits", "split_index", "optim")
        if (value := getattr(options, name)) is not None
    }
    # An unknown name is better told now than to every client.
    chosen = None if options.model is None else choose_model(options.model)
    if chosen is not None:
        pinned["model"] = chosen.name
    if options.optim is not None:
        find_preset(options.optim)
    recipe = make_recipe(chosen, first_weights(options.pretrained, options.weights))
    options.serve({WORKLOAD: recipe}, pinned, share=Share(options.share), clients=options.clients)


if __name__ == "__main__":
    run_command(main, until_stopped=True)
