"""placeholder"""

import argparse


def run(options: argparse.Namespace) -> int:
    return 0


def add_verb(verbs) -> None:
    parser = verbs.add_parser("report", help="")
    parser.set_defaults(run=run)
