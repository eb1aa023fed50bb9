#!/usr/bin/env python3
"""Write the HDF5 files in tests/golden/files that other programs than Squeeze could have made.

They hold the contents of tests/made_files.hpp in unusual or hostile forms: compressed, big-endian, through links, in
other files. Needs h5py and numpy. Existing files are replaced.
"""

import argparse
import pathlib

import h5py
import numpy as np


def made(shape, seed):
    """made_tensor() of tests/made_files.hpp."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    return (((i * 37 + i // 7 * 5 + seed * 101) % 63 - 31) / 16.0).astype(np.float32).reshape(shape)


def set_root(file, format_name="squeeze-kv-dump"):
    strings = {"format": format_name, "writer": "another", "model_name": "made", "model_fingerprint": "0123abcd",
               "rope": '{"theta": 10000.0}'}
    for name, value in strings.items():
        file.attrs[name] = np.bytes_(value)
    numbers = {"version": 1, "n_layers": 2, "n_query_heads": 4, "n_kv_heads": 2, "head_dim": 3, "n_tokens": 12,
               "softmax_scale": 0.57735026, "unknown": 5}
    for name, value in numbers.items():
        file.attrs[name] = value
    file["tokens"] = (np.arange(12) * 31 % 97).astype(np.int32)
    file["query_positions"] = np.array([9, 10, 11], dtype=">i8")
    text = "A short text, with an é.".encode()
    file.create_dataset("text", data=np.bytes_(text))
    file["unknown/data"] = 5


def layer_arrays(layer):
    return {"keys": made((2, 12, 3), 10 * layer), "values": made((2, 12, 3), 10 * layer + 1),
            "queries": made((4, 3, 3), 10 * layer + 2)}


def add_layers(file, left_out=()):
    for layer in range(2):
        for name, data in layer_arrays(layer).items():
            path = f"layers/{layer:02}/{name}"
            if path not in left_out:
                file[path] = data


def third_party(folder):
    with h5py.File(folder / "third_party.kv.h5", "w", libver="earliest") as file:
        set_root(file)
        first, second = layer_arrays(0), layer_arrays(1)
        file.create_dataset("layers/00/keys", data=first["keys"], chunks=(1, 5, 3), compression="gzip", shuffle=True)
        file.create_dataset("layers/00/values", data=first["values"].astype(">f4"))
        file.create_dataset("layers/00/queries", data=first["queries"].astype("<f8"))
        file.create_dataset("layers/01/keys", data=second["keys"].astype("<f2"))
        file.create_dataset("layers/01/values", data=second["values"], maxshape=(None, None, None))
        file.create_dataset("layers/01/queries", data=second["queries"])


def hostile(folder, name, change, left_out=("layers/00/keys",)):
    with h5py.File(folder / f"hostile_{name}.kv.h5", "w") as file:
        set_root(file)
        add_layers(file, left_out)
        change(file)


def add_external_link(file):
    file["layers/00/keys"] = h5py.ExternalLink("other.h5", "/keys")


def add_soft_link(file):
    file["layers/00/keys"] = h5py.SoftLink("/layers/01/keys")


def add_external_data(file):
    file.create_dataset("layers/00/keys", (2, 12, 3), dtype="<f4", external=[("/etc/passwd", 0, 288)])


def add_virtual(file):
    layout = h5py.VirtualLayout((2, 12, 3), dtype="<f4")
    layout[:] = h5py.VirtualSource("other.h5", "keys", (2, 12, 3))
    file.create_virtual_dataset("layers/00/keys", layout)


def add_variable_string(file):
    del file.attrs["model_name"]
    file.attrs["model_name"] = "made"


def add_no_data(file):
    file.create_dataset("layers/00/keys", (2, 12, 3), dtype="<f4", chunks=(2, 12, 3))


def chunked_index(folder):
    """index_v1_bf16.sqz.h5 with the keys of one layer in chunks."""
    path = folder / "hostile_chunked.sqz.h5"
    path.write_bytes((folder / "index_v1_bf16.sqz.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        old = file["layers/01/keys"]
        kind, shape = old.id.get_type(), old.shape
        del file["layers/01/keys"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((1, 4, 3))
        h5py.h5d.create(file["layers/01"].id, b"keys", kind, h5py.h5s.create_simple(shape), creation)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "files")
    folder = parser.parse_args().folder
    third_party(folder)
    hostile(folder, "external_link", add_external_link)
    hostile(folder, "soft_link", add_soft_link)
    hostile(folder, "external_data", add_external_data)
    hostile(folder, "virtual", add_virtual)
    hostile(folder, "variable_string", add_variable_string, ())
    hostile(folder, "no_data", add_no_data)
    chunked_index(folder)


if __name__ == "__main__":
    main()
