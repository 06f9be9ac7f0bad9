"""All parties and the top in one process: ``python -m DIN.base [--parties 2 --stale_it 5 ...]``.

Heads, tail, codecs, frames and schedule are those of the distributed run; only the network is missing. With
``--schedule fixed`` the results are those of the distributed run, bit for bit.
"""

from common.command import run_command
from common.config import parse
from DIN.options import BaseOptions
from DIN.report import ceiling, report
from DIN.train import plan_all, train_in_process
from discriminative.resume import with_saved


def main() -> None:
    """Train the job of the command line in this process."""
    options = with_saved(parse(BaseOptions))
    options.prepare()
    plans = plan_all(options)
    for run in train_in_process(plans, options):
        print(report(run))
    if words := ceiling(plans[0].data):
        print(words)


if __name__ == "__main__":
    run_command(main)
