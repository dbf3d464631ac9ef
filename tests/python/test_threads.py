# SPDX-License-Identifier: MIT
"""Threads: inside a call, and several calls at a time."""

import concurrent.futures
import subprocess
import sys
import threading
import time

import numpy
import pytest

import axisnorm
from reference import NORMS, TRACKED, arguments, functions


@pytest.mark.parametrize("norm", NORMS)
def test_same_bits_for_any_number(norm, random):
    x = random.normal(size=(4, 6, 64, 64)).astype("float32")
    training = {"training": True} if norm in TRACKED else {}
    run, run_backward = functions(norm)
    results = []
    for threads in (1, 2, 3, 7):
        y, *statistics = run(x, return_statistics=True, threads=threads, **training, **arguments(norm))
        results.append([y, *run_backward(y, x, *statistics, threads=threads, **arguments(norm))])
    for other in results[1:]:
        for actual, due in zip(other, results[0]):
            numpy.testing.assert_array_equal(actual, due)


def test_threads_stay():
    """PyTorch's, in whose pool calls run: a loop of fewer parts does not end those it has nothing for."""
    pytest.importorskip("torch")
    code = """
import os, torch, axisnorm.torch
torch.set_num_threads(7)
x = torch.randn(3, 16, 64, 64, requires_grad=True)
norm = axisnorm.torch.GroupNorm(1, 16)
def step():
    norm(x).sum().backward()
    torch.ones(1 << 20).add_(1)
step()
before = os.listdir("/proc/self/task")
for _ in range(3):
    step()
assert os.listdir("/proc/self/task") == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_calls_at_a_time(random):
    """More kinds of calls than the cache of plans holds, from several threads."""
    shapes = [(1 + i % 7, 6, 1 + i // 7) for i in range(1500)]
    x = random.normal(size=7 * 6 * 300).astype("float32")

    def run(index):
        shape = shapes[index]
        part = x[:numpy.prod(shape)].reshape(shape)
        return axisnorm.group_norm(part, groups=3, threads=2)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, [*range(1500)] * 2))
    for index, result in enumerate(results):
        numpy.testing.assert_array_equal(result, run(index % 1500))


def test_others_run_meanwhile():
    """Python switches threads only where one lets go, as a call into the library must."""
    x = numpy.ones((64, 64, 32), "float32")
    stop, turns = threading.Event(), [0]

    def turn():
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=turn)
    other.start()
    sys.setswitchinterval(1000)
    try:
        before = turns[0]
        for _ in range(2000):
            axisnorm.layer_norm(x, out=x)
            if turns[0] > before + 5:
                break
        after = turns[0]
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()
    assert after > before + 5


@pytest.mark.parametrize("host", ["numpy", "torch"])
def test_after_a_fork(host):
    """OpenMP's threads are not in the child, which must not wait for them."""
    pytest.importorskip(host)
    script = """if True:
        import os, signal, numpy, axisnorm
        x = numpy.random.default_rng(1).normal(size=(8, 8, 64, 64)).astype("float32")
        normalize = lambda x: axisnorm.group_norm(x, groups=2, threads=3)
        if HOST == "torch":
            import torch, axisnorm.torch
            torch.set_num_threads(3)
            normalize = lambda x: axisnorm.torch.group_norm(torch.from_numpy(x), 2).numpy()
        y = normalize(x)
        if os.fork() == 0:
            signal.alarm(20)  # ends a child that waits for ever
            os._exit(0 if numpy.array_equal(normalize(x), y) else 1)
        assert os.wait()[1] == 0
        assert numpy.array_equal(normalize(x), y)
    """
    subprocess.run([sys.executable, "-c", script.replace("HOST", repr(host))], check=True)
