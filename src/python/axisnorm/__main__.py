# SPDX-License-Identifier: MIT
"""``python -m axisnorm``: the command."""

import os
import sys

from ._command import command


def main() -> None:
    with command() as program:
        os.execv(program, ["axisnorm", *sys.argv[1:]])


if __name__ == "__main__":
    main()
