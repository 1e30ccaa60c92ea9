"""Checkpoint files that try to run code, to fill the memory or to keep the reader busy."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import torch

PROTOCOL = b"\x80\x02"
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


class Calls:
    """An object whose unpickling calls ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def storage(key, count, kind="FloatStorage"):
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(key="0", count=2, shape=(2,), stride=(1,), offset=0):
    """A tensor as torch.save describes it, with the arguments' numbers."""
    window = storage(key, count) + number(offset) + number(shape) + number(stride)
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + window + b"\x89}tR"


def array(shape=(2,), raw=b"\0" * 8, code="f4", content=None):
    """An array as NumPy pickles it, with the arguments' numbers; ``content`` replaces the opcodes for ``raw``."""
    state = b"(K\3" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    dtype = name("numpy", "dtype") + b"(" + text(code) + b"K\0K\1tR" + state
    if content is None:
        content = name("_codecs", "encode") + text(raw.decode("latin-1")) + text("latin1") + b"\x86R"
    start = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\0\x85U\1b\x87R"
    return start + b"(K\1" + number(shape) + dtype + b"\x89" + content + b"tb"


def python2_text(raw):
    """Bytes as in pickles of Python 2."""
    return b"T" + struct.pack("<i", len(raw)) + raw


def mapping(value, key=None):
    return PROTOCOL + b"}" + (text("weight") if key is None else key) + value + b"s."


def zipped(pickled, *entries, storages=(b"\0" * 8,), compression=zipfile.ZIP_STORED):
    """A zip as torch.save writes it, around the pickle ``pickled``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for index, content in enumerate(storages):
            archive.writestr(f"archive/data/{index}", content)
        for entry in entries:
            archive.writestr(*entry)
    return file.getvalue()


def declared(content, size):
    """A zip whose directory declares ``size`` bytes for its last entry."""
    start = content.rindex(b"PK\1\2")
    return content[: start + 20] + struct.pack("<II", size, size) + content[start + 28 :]


def old(pickled, keys=("0",), storages=(b"\2" + b"\0" * 15,)):
    """A file as torch.save wrote it before 1.6."""
    return MAGIC + pickled + pickle.dumps(list(keys), 2) + b"".join(storages)


def safetensors(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", length or len(header)) + header + data


def code(marker):
    """Files that would make the folder ``marker``: name -> content."""
    run = Calls(os.mkdir, marker)
    statement = f"__import__('os').mkdir({marker!r})"
    honest = torch.ones(2)
    nested = Calls(eval, f"lambda: {statement}")
    cases = {f"os_{protocol}.pkl": pickle.dumps({"weight": run}, protocol) for protocol in (0, 1, 2, 3, 4, 5)}
    cases |= {
        "eval.pkl": pickle.dumps(Calls(eval, statement), 2),
        "exec.pkl": pickle.dumps(Calls(exec, statement), 4),
        "nested.pkl": pickle.dumps(nested, 2)[:-1] + b")R.",
        "getattr.pkl": PROTOCOL + name("builtins", "getattr") + name("os", "path") + text("join") + b"\x86R.",
        "object_array.pkl": pickle.dumps({"weight": np.array([run], dtype=object)}, 2),
        "as_key.pkl": mapping(b"K\1", pickle.dumps(run, 2)[2:-1]),
        "in_shape.pkl": pickle.dumps({"weight": Calls(np.zeros, run)}, 2),
        "inst.pkl": PROTOCOL + b"(" + text(marker) + b"ios\nmkdir\n.",
        "obj.pkl": PROTOCOL + b"(" + name("os", "mkdir") + text(marker) + b"o.",
        "newobj.pkl": PROTOCOL + name("os", "mkdir") + text(marker) + b"\x85\x81.",
        "newobj_ex.pkl": b"\x80\x04" + name("os", "mkdir") + text(marker) + b"\x85}\x92.",
        "extension.pkl": PROTOCOL + b"\x82\x01.",
        "copyreg.pkl": PROTOCOL + name("copyreg", "_reconstructor") + name("os", "mkdir") + text(marker) + b"N\x87R.",
        "dotted.pkl": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
        "codec.pkl": PROTOCOL + name("_codecs", "encode") + text("a") + text("zlib_codec") + b"\x86R.",
        "numpy_load.pkl": PROTOCOL + name("numpy", "load") + text(marker) + b"\x85R.",
        "build.pkl": PROTOCOL + name("collections", "OrderedDict") + b"}" + text("__class__") + b"K\1sb.",
        "jit.pth": zipped(mapping(name("torch.jit", "load") + text(marker) + b"\x85R")),
        "bytes.pth": zipped(mapping(name("torch.storage", "_load_from_bytes") + text(marker) + b"\x85R")),
        "zip.pth": saved({"model": {"weight": honest}, "meta": run}),
        "zip_named.safetensors": saved({"weight": honest, "meta": run}),
        "old.pth": saved({"weight": honest, "meta": run}, _use_new_zipfile_serialization=False),
        "old_magic.pth": MAGIC[:14] + pickle.dumps(run, 2),
        "old_keys.pth": MAGIC + mapping(tensor()) + pickle.dumps([run], 2),
        "subclass.pth": zipped(
            mapping(
                name("torch._tensor", "_rebuild_from_type_v2")
                + b"("
                + name("os", "mkdir")
                + b"N"
                + text(marker)
                + b"\x85NtR"
            )
        ),
        "torchscript.pt": zipped(mapping(tensor()), ("archive/constants.pkl", "N."), ("archive/code/a.py", statement)),
    }
    return cases


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def doubling(levels, first=b")", pair=b"\x86"):
    """A tuple of a tuple twice, and so on: 2 to the power of ``levels`` leaves in a few bytes."""
    return first + b"".join(b"q%ch%c" % (level, level) + pair for level in range(levels))


BUSY = {
    "hash.pkl": (mapping(b"K\1", doubling(60)), "tuple as a key"),
    "hash.pth": (zipped(mapping(b"K\1", doubling(60))), "tuple as a key"),
    "hash_set.pkl": (PROTOCOL + b"\x8f(" + doubling(60) + b"\x90.", "tuple as a key"),
    "hash_keys.pth": (
        old(mapping(tensor()))[: len(MAGIC) + len(mapping(tensor()))] + PROTOCOL + b"](" + doubling(60) + b"e.",
        "list of storages",
    ),
    "laughs.pkl": (PROTOCOL + doubling(60) + b".", "a tuple"),
    "laughs_shape.pkl": (mapping(array().replace(number((2,)), doubling(60), 1)), "32 sizes|invalid size"),
    "laughs_codec.pkl": (PROTOCOL + name("numpy", "dtype") + doubling(60) + b"\x85R.", "no number type"),
    "laughs_device.pth": (zipped(mapping(name("torch", "device") + doubling(60) + b"\x85R")), "named tensors"),
    "deep.pkl": (PROTOCOL + b"]" * 200_000 + b"a" * 199_999 + b".", "a list"),
    "deep_marks.pkl": (PROTOCOL + b"(" * 300_000 + b".", "is damaged"),
    "steps.pkl": (PROTOCOL + b"(" + b"N" * 3_000_000 + b"t.", "1,000,000 steps"),
    "sets.pkl": (PROTOCOL + b"(" + b"\x8f" * 3_000_000 + b"t.", "1,000,000 steps"),
    "copied_lists.pkl": (
        PROTOCOL + b"(" + b"N" * 400_000 + b"tq\0" + (name("torch", "Size") + b"h\0\x85R") * 5000 + b".",
        "torch.Size",
    ),
    "copied_items.pth": (
        zipped(PROTOCOL + b"(" + b"N" * 400_000 + b"tq\0" + (name("torch", "Size") + b"h\0\x85R") * 5000 + b"."),
        "1,000,000 steps",
    ),
    "copied_text.pkl": (
        PROTOCOL
        + text("a" * 10**6)
        + b"q\0"
        + (name("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R") * 20_000
        + b".",
        "copies more bytes",
    ),
    "long_keys.pkl": (PROTOCOL + b"}" + text("a" * 10**6) + b"Ns" + text("a" * 10**6) + b"q\0Ns.", "key of 1000000"),
    "long_integer.pkl": (PROTOCOL + b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".", "7999999 bits"),
    "long_decimal.pkl": (PROTOCOL + b"I" + b"9" * 10**6 + b"\n.", "is damaged"),
}
"""Name -> content that takes hours to read as written, and a fact of the error message."""

SHARED = b"".join(
    text(f"a{index}") + array((10**6,), content=b"h\1" if index else python2_text(b"a" * 4 * 10**6) + b"q\1")
    for index in range(20)
)
"""Twenty arrays of the same 4 MB, which the pickle contains once."""

BIG = {
    "shape.pkl": (mapping(array((2**40,))), "has 8 bytes"),
    "negative.pkl": (mapping(array((-2,))), "invalid size"),
    "strings.pkl": (mapping(array((2,), code="S1000000000000")), "no number type"),
    "void.pkl": (mapping(array((2,), code="V1000000000000")), "no number type"),
    "records.pkl": (mapping(array((2,), code="f4,f4")), "no number type"),
    "objects.pkl": (mapping(array((2,), code="O8")), "no number type"),
    "shared.pkl": (PROTOCOL + b"}(" + SHARED + b"u.", "8 times the file"),
    "filled.pkl": (mapping(name("numpy", "zeros") + number(2**40) + b"\x85R"), "numpy.zeros"),
    "text8.pkl": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a.", "is damaged"),
    "bytes8.pkl": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.", "is damaged"),
    "bytearray8.pkl": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.", "is damaged"),
    "text4.pkl": (PROTOCOL + b"X\xff\xff\xff\xff.", "is damaged"),
    "integer.pkl": (PROTOCOL + b"\x8b\xff\xff\xff\x7f.", "is damaged"),
    "memo.pkl": (PROTOCOL + b"Nr\xff\xff\xff\xff.", "contains None"),
    "frame.pkl": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "contains None"),
    "identifier.pkl": (mapping(storage("0", 2**40)), "not in the file"),
    "bytearray.pth": (zipped(mapping(name("builtins", "bytearray") + number(2**40) + b"\x85R")), "builtins.bytearray"),
    "tensor.pth": (zipped(mapping(name("torch", "FloatTensor") + number(2**40) + b"\x85R")), "torch.FloatTensor"),
    "storage.pth": (zipped(mapping(tensor(count=2**40))), "more storage than the file"),
    "storage.old.pth": (old(mapping(tensor(count=2**40))), "of another size"),
    "storage_agreed.old.pth": (old(mapping(tensor(count=2**40)), storages=[struct.pack("<q", 2**40)]), "ends inside"),
    "expanded.pth": (zipped(mapping(tensor(shape=(2**40,), stride=(0,)))), "8 times the file"),
    "expanded.old.pth": (old(mapping(tensor(shape=(2**20, 2**20), stride=(0, 0)))), "8 times the file"),
    "window.pth": (zipped(mapping(tensor(shape=(3,)))), "the 2 elements"),
    "window_offset.pth": (zipped(mapping(tensor(offset=1))), "the 2 elements"),
    "window_stride.pth": (zipped(mapping(tensor(stride=(2,)))), "the 2 elements"),
    "window_negative.pth": (zipped(mapping(tensor(shape=(2, 2), stride=(-1, 1)))), "invalid size"),
    "window.old.pth": (old(mapping(tensor(shape=(2, 2), stride=(2, 1)))), "the 2 elements"),
    "smaller.pth": (zipped(mapping(tensor()), storages=[b"\0" * 4]), "4 bytes.* 8"),
    "absent.pth": (zipped(mapping(tensor(key="1"))), "data/1"),
    "compressed.pth": (
        zipped(mapping(tensor()), storages=[b"\0" * 10**8], compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "declared.pth": (declared(zipped(mapping(tensor())), 2**31), "declares more bytes"),
    "outside.pth": (zipped(mapping(tensor()), ("../../outside", "x")), "a path outside"),
    "absolute.pth": (zipped(mapping(tensor()), ("/tmp/absolute", "x")), "a path outside"),
    "backslash.pth": (zipped(mapping(tensor()), ("archive\\..\\x", "x")), "a path outside"),
    "names.pth": (
        zipped(mapping(tensor()), *((f"archive/{'n' * 200}{i}", "") for i in range(40_000))),
        "more than 8,",
    ),
    "no_pickle.pth": (zipped(mapping(tensor())).replace(b"data.pkl", b"data.pkk"), "without data.pkl"),
    "header_2gb.safetensors": (safetensors({"a": F32}, bytes(8), 2**31), "2,147,483,648 bytes"),
    "header_over.safetensors": (safetensors({"a": F32}, bytes(8), 5000), "invalid header length"),
    "overlap.safetensors": (safetensors({"a": F32, "b": F32}, bytes(8)), "invalid offset"),
    "beyond.safetensors": (
        safetensors({"a": {**F32, "shape": [200], "data_offsets": [0, 800]}}, bytes(8)),
        "incomplete",
    ),
    "hole.safetensors": (safetensors({"a": F32, "b": {**F32, "data_offsets": [16, 24]}}, bytes(24)), "invalid offset"),
    "shape.safetensors": (safetensors({"a": {**F32, "shape": [3]}}, bytes(8)), "invalid shape"),
    "overflow.safetensors": (safetensors({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(8)), "overflow"),
    "zero.safetensors": (safetensors({"a": {**F32, "shape": [0, 2**63], "data_offsets": [0, 0]}}), "not a readable"),
    "half_bytes.safetensors": (safetensors({"a": {**F32, "dtype": "F4", "shape": [16]}}, bytes(8)), "dtype"),
    "deep.safetensors": (safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "recursion limit"),
    "deep_text.safetensors": (
        safetensors({"a": F32, "__metadata__": {"afictl": "[" * 100_000}}, bytes(8)),
        "JSON",
    ),
    "digits.safetensors": (
        safetensors({"a": F32, "__metadata__": {"afictl": "9" * 10_000}}, bytes(8)),
        "JSON|mapping",
    ),
    "newline.safetensors": (safetensors({"a\n\x1b[2J": F32}, bytes(8)), "not printable"),
}
"""Name -> content that claims false sizes or offsets, and a fact of the error message."""
