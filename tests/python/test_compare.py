# SPDX-License-Identifier: MIT
"""compare() beside the command, and beside its definitions."""

import json
import subprocess
import sys

import numpy
import pytest

import axisnorm


def without_times(rows):
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


def command(*arguments):
    program = [sys.executable, "-m", "axisnorm", "compare", "--format", "json", *arguments]
    return json.loads(subprocess.run(program, capture_output=True, check=True).stdout)["rows"]


def test_agrees_with_the_command(tmp_path, random):
    x = random.normal(size=(8, 4, 3, 3)).astype("float32")
    numpy.save(tmp_path / "x.npy", x)
    rows = axisnorm.compare(x, batch=[1, 4], norms=["batch", "group"], groups=2, seed=3, threads=1)
    due = command("--input", str(tmp_path / "x.npy"), "--batch", "1,4", "--norms", "batch,group", "--groups",
                  "2", "--seed", "3", "--threads", "1")
    assert [list(row) for row in rows] == [list(row) for row in due]
    assert without_times(rows) == without_times(due)
    assert all(row["forward_seconds"] > 0 for row in rows)


def test_layout_and_random_data(random):
    x = random.normal(size=(4, 4, 3, 3)).astype("float32")
    first = axisnorm.compare(x, batch=2, norms="batch")
    last = axisnorm.compare(x.transpose(0, 2, 3, 1), batch=2, norms="batch", layout="nhwc")
    assert first[0]["mean_noise"] == pytest.approx(last[0]["mean_noise"], rel=1e-6)
    assert len(axisnorm.compare(shape=(4, 4, 2, 2), batch=[1, 2])) == 8


def test_ghost_batches_and_activations(random):
    rows = axisnorm.compare(random.normal(size=(8, 4, 3)).astype("float32"), batch=4, norms=["batch", "ghost"],
                            ghost_batch=2, activation="leaky-relu", negative_slope=0.2)
    assert [row["ghost_batch"] for row in rows] == [None, 2]
    assert {row["activation"] for row in rows} == {"leaky-relu"}


def test_types(random):
    x = random.normal(size=(8, 4, 3))
    bfloat16 = x.astype(pytest.importorskip("ml_dtypes").bfloat16)
    due = axisnorm.compare(bfloat16.astype("float32"), batch=2, norms="batch")[0]
    row, = axisnorm.compare(bfloat16, batch=2, norms="batch")
    assert row["mean_noise"] == pytest.approx(due["mean_noise"], rel=1e-6)
    assert len(axisnorm.compare(x, batch=2, norms="rms")) == 1  # float64


def test_definition(random):
    """Of two samples, each batch of one is drawn as often as the other: no seed plays a part."""
    x = random.normal(size=(2, 3, 4, 4)).astype("float32")
    row, = axisnorm.compare(x, batch=1, norms="batch")
    values = x.astype("float64")
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
    mean_noise = numpy.sqrt((((values.mean((2, 3)) - mean) / numpy.sqrt(variance)) ** 2).mean())
    variance_noise = numpy.sqrt(((values.var((2, 3)) / variance - 1) ** 2).mean())
    assert row["mean_noise"] == pytest.approx(mean_noise, rel=1e-6)
    assert row["variance_noise"] == pytest.approx(variance_noise, rel=1e-6)
    whole = axisnorm.batch_norm(x, training=True).astype("float64")
    single = numpy.concatenate([axisnorm.batch_norm(x[i:i + 1], training=True) for i in range(2)])
    deviation = numpy.sqrt(((single - whole) ** 2).sum() / (whole ** 2).sum())
    assert row["output_deviation"] == pytest.approx(deviation, rel=1e-6)
    assert row["values_per_statistic"] == 16 and row["statistics"] == 3 and row["groups"] is None


def test_refusals():
    x = numpy.ones((4, 2, 3), "float32")
    with pytest.raises(axisnorm.ArgumentError, match="--norms: 'none'"):
        axisnorm.compare(x, norms="none")
    with pytest.raises(axisnorm.ArgumentError, match="--batch"):
        axisnorm.compare(x, batch=5)
    with pytest.raises(axisnorm.ArgumentError, match="^x: type <i4"):  # not the file's name
        axisnorm.compare(x.astype("int32"))
    with pytest.raises(axisnorm.ArgumentError, match="^x: has 1 axis"):
        axisnorm.compare(x[0, 0])
    with pytest.raises(axisnorm.ArgumentError, match="--shape"):
        axisnorm.compare(x, shape=(1, 2, 3))


def test_command():
    program = [sys.executable, "-m", "axisnorm", "--version"]
    assert axisnorm.__version__ in subprocess.run(program, capture_output=True, check=True, text=True).stdout
