"""The edge: ``python -m generative.client --ip SERVER [--dataset chairs:PATH --image_size 128 --width 1 ...]``."""

from common.command import run_command
from common.config import parse
from common.wire.security import client_security
from discriminative.resume import with_saved
from discriminative.shared_options import check_ports
from discriminative.train import report, train_in_process, train_with_server
from generative.options import ClientOptions
from generative.recipe import plan_job


def main() -> None:
    """Train the job of the command line; with the whole model on the edge no server is needed."""
    options = with_saved(parse(ClientOptions))
    options.prepare()
    options.check_plan()
    check_ports(port=options.port, hyperport=options.hyperport)
    security = client_security(options.ip, options.security, insecure=options.insecure)
    plan = plan_job(options)
    alone = plan.edge_only and options.plan == "fixed"
    run = train_in_process(plan, options) if alone else train_with_server(plan, options, security)
    print(report(run))


if __name__ == "__main__":
    run_command(main)
