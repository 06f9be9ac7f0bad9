"""The cloud: ``python -m generative.server [--ip 0.0.0.0] [--image_size 128 --width 1 ...]``."""

from common.command import run_command
from common.config import parse
from generative.options import ServerOptions
from generative.recipe import WORKLOAD, make_recipe


def main() -> None:
    """Serve sessions until interrupted."""
    options = parse(ServerOptions)
    options.prepare()
    options.check()
    options.serve({WORKLOAD: make_recipe()}, options.pinned)


if __name__ == "__main__":
    run_command(main, until_stopped=True)
