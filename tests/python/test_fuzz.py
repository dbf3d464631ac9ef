# SPDX-License-Identifier: MIT
import subprocess
import sys
from pathlib import Path

from conftest import SEED


def test_random_calls():
    """In a process of its own, so that a crash is a failure with a seed."""
    fuzz = str(Path(__file__).with_name("fuzz.py"))
    program = [sys.executable, "-X", "faulthandler", "-W", "ignore", fuzz, str(SEED), "10"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {SEED}: {done.stderr}"
    worked, refused = map(int, done.stdout.split())
    assert worked > 100 and refused > 100
