#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Record the activations that `axisnorm compare` works on by default.

What is trained: a convolutional network of three layers on Fashion-MNIST's 60,000 training images,
each convolution (3 x 3, no bias) followed by batch normalization and ReLU:

    image      1 x 28 x 28
    conv1  ->  16 x 28 x 28   norm1, ReLU, max pool 2
    conv2  ->  32 x 14 x 14   norm2, ReLU, max pool 2
    conv3  ->  16 x  7 x  7   norm3, ReLU      <- recorded: the input of norm3
    linear ->  10

by stochastic gradient descent (momentum 0.9, one-cycle learning rate) for 8 epochs of batches of
128. It reaches about 91.9 % on the 10,000 test images; the script prints the figure.

What is recorded: the tensor that enters norm3, that is the output of conv3, for the first 256 test
images, with the trained network in evaluation mode. Float32, N,C,H,W = 256,16,7,7, as .npy v1.0.

Needed: Python 3.9 or newer, numpy, PyTorch 2.x (the CPU build is enough), and Debian's package
dataset-fashion-mnist, or its four .gz files in another folder.

    python3 src/cli/activations/record.py                 # about two minutes on two cores
    python3 src/cli/activations/record.py --check         # only describe the file that is there

Seeds, the order of the batches and the thread count are fixed, so a second run on the same machine
with the same PyTorch writes the same bytes. Another processor or another PyTorch may round
differently and end in a slightly different, equally good network.
"""

import argparse
import gzip
import hashlib
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np

SEED = 20180
IMAGES = 256
EPOCHS = 8
BATCH = 128
DEFAULT_DATASET = Path("/usr/share/datasets/fashion-mnist")
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "fashion_mnist.npy"


def read_idx(path):
    """An array from a gzipped IDX file of unsigned bytes."""
    with gzip.open(path, "rb") as file:
        data = file.read()
    zero, kind, rank = struct.unpack_from(">HBB", data)
    if zero != 0 or kind != 8:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{rank}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def train_and_record(dataset, threads):
    """Trains the network; returns the recorded activations and the accuracy on the test images."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)

    def load(part):
        images = read_idx(dataset / f"{part}-images-idx3-ubyte.gz").astype(np.float32) / 255.0
        labels = read_idx(dataset / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
        return torch.from_numpy(images)[:, None], torch.from_numpy(labels)

    train_images, train_labels = load("train")
    test_images, test_labels = load("t10k")
    mean, std = train_images.mean(), train_images.std()
    train_images = (train_images - mean) / std
    test_images = (test_images - mean) / std

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(32)
            self.conv3 = nn.Conv2d(32, 16, 3, padding=1, bias=False)
            self.norm3 = nn.BatchNorm2d(16)
            self.linear = nn.Linear(16 * 7 * 7, 10)
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            x = self.pool(torch.relu(self.norm1(self.conv1(x))))
            x = self.pool(torch.relu(self.norm2(self.conv2(x))))
            x = torch.relu(self.norm3(self.conv3(x)))
            return self.linear(x.flatten(1))

    network = Network()
    steps = (len(train_images) + BATCH - 1) // BATCH
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * steps)
    loss_of = nn.CrossEntropyLoss()
    order = torch.Generator().manual_seed(SEED)

    def accuracy():
        network.eval()
        with torch.no_grad():
            right = sum(
                (network(images).argmax(1) == labels).sum().item()
                for images, labels in zip(test_images.split(1000), test_labels.split(1000))
            )
        return right / len(test_images)

    for epoch in range(1, EPOCHS + 1):
        network.train()
        start, total = time.monotonic(), 0.0
        for index in torch.randperm(len(train_images), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss = loss_of(network(train_images[index]), train_labels[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        print(
            f"epoch {epoch} of {EPOCHS}: loss {total / len(train_images):.4f}, "
            f"test accuracy {100 * accuracy():.2f} %, {time.monotonic() - start:.0f} s",
            file=sys.stderr,
        )

    recorded = []
    hook = network.norm3.register_forward_pre_hook(lambda module, args: recorded.append(args[0]))
    final = accuracy()
    hook.remove()
    return torch.cat(recorded)[:IMAGES].contiguous().numpy().astype("<f4"), final


def write_npy(path, array):
    """Writes .npy v1.0; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def noise_of_the_batch_mean(x, batch, draws=2000):
    """RMS, over drawn batches and channels, of (batch mean - mean) / standard deviation."""
    generator = np.random.default_rng(SEED)
    per_image = x.mean(axis=(2, 3))  # every image has the same number of values
    mean, std = x.mean(axis=(0, 2, 3)), x.std(axis=(0, 2, 3))
    drawn = [generator.choice(len(x), batch, replace=False) for _ in range(draws)]
    means = np.stack([per_image[index].mean(axis=0) for index in drawn])
    return np.sqrt((((means - mean) / std) ** 2).mean())


def describe(path):
    x = np.load(path).astype(np.float64)
    mean, std = x.mean(axis=(0, 2, 3)), x.std(axis=(0, 2, 3))
    z = (x - mean[:, None, None]) / std[:, None, None]
    kurtosis = (z**4).mean(axis=(0, 2, 3)) - 3
    share = x.mean(axis=(2, 3)).var(axis=0) / std**2
    print(f"file {path.name}: {path.stat().st_size} bytes, float32, N,C,H,W = {x.shape}")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    print(f"mean per channel: {mean.min():.3f} to {mean.max():.3f}")
    print(f"standard deviation per channel: {std.min():.3f} to {std.max():.3f}")
    print(f"excess kurtosis per channel: {kurtosis.min():.2f} to {kurtosis.max():.2f}")
    print(f"largest distance from a channel's mean: {abs(z).max():.1f} standard deviations")
    print(f"share of a channel's variance between images: {share.min():.3f} to {share.max():.3f}")
    for batch in (1, 2, 4, 8, 16, 32):
        print(f"noise of the mean at batch {batch:2}: {noise_of_the_batch_mean(x, batch):.4f}")


def main():
    parser = argparse.ArgumentParser(
        description="Train a small network on Fashion-MNIST and record what enters one of its "
        "normalization layers."
    )
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATASET, metavar="DIR",
                        help="folder with the four .gz files of Fashion-MNIST (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="FILE",
                        help="where to write (default: fashion_mnist.npy beside this script)")
    parser.add_argument("--threads", type=int, default=2, metavar="T",
                        help="PyTorch's threads; the result may depend on it (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="only describe the file")
    args = parser.parse_args()

    try:
        if not args.check:
            activations, accuracy = train_and_record(args.dataset, args.threads)
            write_npy(args.output, activations)
            print(f"test accuracy {100 * accuracy:.2f} %")
        describe(args.output)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"record.py: {error}")


if __name__ == "__main__":
    main()
