"""The ablation program: ``python -m baseline.base --stale_it K --split_index L --compress int8 ...``.

Head, tail, codecs, frames and schedule are those of the distributed run; only the network is missing. With
``--schedule fixed`` the results are those of the distributed run, bit for bit.
"""

from common.command import run_command
from common.config import parse
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.resume import with_saved
from discriminative.train import report, train_in_process


def main() -> None:
    """Train the job of the command line in this process."""
    options = with_saved(parse(BaseOptions))
    options.prepare()
    print(report(train_in_process(plan_job(options), options)))


if __name__ == "__main__":
    run_command(main)
