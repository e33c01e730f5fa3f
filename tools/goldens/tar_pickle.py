"""Makes tests/fixtures/pickles/tar.pt: a file in torch's oldest container, checked with torch's own reader of it.

Run with torch and safetensors installed: python tools/goldens/tar_pickle.py tests/fixtures/pickles

torch has not written this container since 2017, so its three members are put together by hand: storages (one of them
seen by two tensors, one of these transposed), tensors, and a dictionary that refers to them by key.
"""

import collections
import io
import pathlib
import pickle
import struct
import sys
import tarfile

import torch
from safetensors.torch import save_file

torch.manual_seed(5)
FOLDER = pathlib.Path(sys.argv[1])
KEY = 140234234234000  # keys were addresses
NAMES = {torch.float32: "Float", torch.float16: "Half", torch.int64: "Long"}

shared, ids, half = torch.randn(12), torch.arange(6), torch.randn(4).half()
storages = {KEY + 11: shared, KEY + 12: ids, KEY + 13: half}
weight, turned = shared[:6].view(2, 3), shared[2:10].view(4, 2).t()
tensors = {KEY + 1: (weight, KEY + 11), KEY + 2: (turned, KEY + 11), KEY + 3: (ids, KEY + 12), KEY + 4: (half, KEY + 13)}
content = collections.OrderedDict(
    [("weight", weight), ("turned", turned), ("step", 3), ("inner", {"ids": ids, "half": half, "again": weight})]
)
keys = {id(tensor): str(key) for key, (tensor, _) in tensors.items()}


class ByKey(pickle.Pickler):
    def persistent_id(self, thing):
        return keys[id(thing)] if isinstance(thing, torch.Tensor) else None


def head(first, second, name):
    """A pickled triple whose third part is a class of torch, which today's pickle would spell otherwise."""
    return pickle.dumps((first, second, None), 2).replace(b"N\x87", b"ctorch\n" + name.encode() + b"\n\x87")


def longs(*numbers):
    return struct.pack(f"<{len(numbers)}q", *numbers)


member = {"sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)}
inner = io.BytesIO()
ByKey(inner, 2).dump(content)
member["pickle"] = inner.getvalue()
parts = [pickle.dumps(len(tensors), 2)]
for key, (tensor, storage) in tensors.items():
    parts += [head(key, storage, NAMES[tensor.dtype] + "Tensor"), struct.pack("<ii", tensor.dim(), 0)]
    parts += [longs(*tensor.shape), longs(*tensor.stride()), longs(tensor.storage_offset())]
member["tensors"] = b"".join(parts)
parts = [pickle.dumps(len(storages), 2)]
for key, storage in storages.items():
    parts += [head(key, "cpu", NAMES[storage.dtype] + "Storage"), longs(storage.numel()), storage.numpy().tobytes()]
member["storages"] = b"".join([*parts, pickle.dumps([], 2)])

with tarfile.open(FOLDER / "tar.pt", "w:", format=tarfile.PAX_FORMAT) as tar:
    for name, data in member.items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

flat = {"weight": weight, "turned": turned, "inner.ids": ids, "inner.half": half, "inner.again": weight}
back = torch.load(FOLDER / "tar.pt", weights_only=False)
for name, tensor in flat.items():
    found = back
    for part in name.split("."):
        found = found[part]
    assert torch.equal(found, tensor), name
save_file({name: tensor.clone().contiguous() for name, tensor in flat.items()}, FOLDER / "tar_expected.safetensors")
