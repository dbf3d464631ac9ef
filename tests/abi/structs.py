#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether the structs of bench/peers/axisnorm_ctypes.py are those that abi.txt records, field by field."""

import ctypes
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "bench" / "peers"))
import axisnorm_ctypes  # noqa: E402

Layout = dict[str, tuple[int, int]]  # of each field, where it begins and its size; "": of the struct


def recorded() -> dict[str, Layout]:
    structs: dict[str, Layout] = {}
    for line in (HERE / "abi.txt").read_text(encoding="utf-8").splitlines():
        kind, name, *rest = line.split()
        if kind == "size":
            structs.setdefault(name, {})[""] = (0, int(rest[0]))
        elif kind == "field":
            field = re.sub(r"\[.*", "", rest[-1]).lstrip("*")
            structs.setdefault(name, {})[field] = (int(rest[0]), int(rest[1]))
    return structs


def declared(struct: type[ctypes.Structure]) -> Layout:
    fields = {name: getattr(struct, name) for name, _ in struct._fields_}
    return {"": (0, ctypes.sizeof(struct))} | {
        name: (field.offset, field.size) for name, field in fields.items()}


def main() -> int:
    structs = recorded()
    wrong = 0
    for name, struct in vars(axisnorm_ctypes).items():
        if not (isinstance(struct, type) and "_fields_" in vars(struct)):
            continue
        due = structs["axn" + re.sub(r"([A-Z])", r"_\1", name).lower()]
        if declared(struct) != due:
            wrong += 1
            print(f"{name}: {sorted(declared(struct).items() ^ due.items())}")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
