"""The edge: ``python -m discriminative.client --ip SERVER [--model VGG19 --dataset cifar10 ...]``."""

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.wire.security import client_security
from discriminative.options import ClientOptions
from discriminative.recipe import plan_job
from discriminative.resume import with_saved
from discriminative.shared_options import check_ports
from discriminative.train import report, train_in_process, train_with_server


def main() -> None:
    """Train the job of the command line; with the whole model on the edge no server is needed."""
    options = with_saved(parse(ClientOptions))
    options.prepare()
    options.check_plan()
    if options.labels == "edge" and (options.plan != "fixed" or options.stale_it == "auto"):
        raise UsageError("--plan and --stale_it auto do not know the round trip that --labels edge adds to a step")
    if options.gradients == "local" and (options.plan != "fixed" or options.stale_it == "auto"):
        raise UsageError("--plan and --stale_it auto do not know steps without gradients (--gradients local)")
    if options.cache_activations and options.plan != "fixed":
        raise UsageError("--plan does not know that --cache_activations sends nothing from the second epoch on")
    check_ports(port=options.port, hyperport=options.hyperport)
    security = client_security(options.ip, options.security, insecure=options.insecure)
    plan = plan_job(options)
    alone = plan.edge_only and options.plan == "fixed"
    run = train_in_process(plan, options) if alone else train_with_server(plan, options, security)
    print(report(run))


if __name__ == "__main__":
    run_command(main)
