"""One party: ``python -m DIN.client --party A --ip SERVER [--parties 2 ...]``; A and B have programs of their own."""

import dataclasses

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.wire.security import client_security
from DIN.options import ClientOptions
from DIN.remote import train_party
from DIN.report import report
from discriminative.resume import with_saved
from discriminative.shared_options import check_ports


def main(party: str = "") -> None:
    """Train as the party of the command line, or as the one that is given."""
    options = parse(ClientOptions)
    if party:
        if options.party and options.party.upper() != party:
            raise UsageError(f"--party is {options.party}; this program is party {party}, python -m DIN.client is any")
        options = dataclasses.replace(options, party=party)
    options = with_saved(options)
    options.prepare()
    options.check()
    check_ports(portA=options.portA, portB=options.portB, hyperport=options.hyperport)
    security = client_security(options.ip, options.security, insecure=options.insecure)
    print(report(train_party(options, security)))


if __name__ == "__main__":
    run_command(main)
