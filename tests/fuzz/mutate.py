"""Damages files by their structure: JSON by its values, weights by their headers, pickles by their opcodes."""

import copy
import io
import json
import pickle
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Draw = random.Random


class Raw(str):
    """JSON text that `dumps` writes as it is."""


class Pairs(list[Any]):
    """An object with its keys in order, some perhaps twice."""


NUMBERS = [
    0, -1, 1, 2, 3, 7, 127, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30,
    Raw("9" * 400), Raw("9" * 5000), 0.0, -0.0, 0.5, 1.5, -2.5, 1e-320, 1e38, 1e308, Raw("NaN"), Raw("Infinity"),
    Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("1" + "0" * 60),
]  # fmt: skip
TEXTS = [
    "", " ", "\n", "\x00", "a", "a" * 5000, "é" * 500, "\ud800", "\udfff", "../x", "../../../../etc/passwd",
    "/etc/passwd", "..\\..\\x", "C:\\x", "con", ".", "..", "~", "{0.__class__}", "%s%n%d", "(a+)+$", "(" * 60, "[",
    "\\", "*", "True", "null", "1", "1e999", "__class__", "__init__", "os.system", "\u202e", "<unk>", "float16", "🦊",
    "<script>", "$(id)", "`id`", "http://127.0.0.1:9/x", "a\nb", "a,b", "a:b", '"', "'", "-", "--help",
]  # fmt: skip
ODD = [
    None, True, False, [], {}, [[]], {"a": []}, [None], {"": {}}, [0] * 300, [1, "a", None, {}], {"(a+)+$": 2**32},
    Raw("[" * 40 + "]" * 40), Raw("[" * 100 + "]" * 100), Raw("[" * 3000 + "]" * 3000), Raw('{"a":' * 2000 + "1" + "}" * 2000),
    Raw("[" * 50000),
]  # fmt: skip


def nasty(draw: Draw) -> Any:
    return copy.deepcopy(draw.choice(draw.choice([NUMBERS, NUMBERS, TEXTS, ODD])))


def dumps(value: Any) -> str:
    """JSON, with what no library writes: keys given twice, NaN, numbers of any length."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(str(k))}:{dumps(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return dumps(Pairs(value.items()))
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


def as_pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([[k, as_pairs(v)] for k, v in value.items()])
    return [as_pairs(one) for one in value] if isinstance(value, list) else value


def _places(value: Any, found: list[tuple[Any, int]] | None = None) -> list[tuple[Any, int]]:
    found = [] if found is None else found
    if isinstance(value, Pairs):
        for index, (_, inner) in enumerate(value):
            found.append((value, index))
            _places(inner, found)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found.append((value, index))
            _places(inner, found)
    return found


def value_of(draw: Draw, value: Any) -> Any:
    """A JSON value, changed in one to three places."""
    value = as_pairs(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        places = _places(value)
        if not places or draw.random() < 0.02:
            return nasty(draw)
        owner, index = draw.choice(places)
        pairs = isinstance(owner, Pairs)
        old = owner[index][1] if pairs else owner[index]

        def put(new: Any, owner: Any = owner, index: int = index, pairs: bool = pairs) -> None:
            if pairs:
                owner[index] = [owner[index][0], new]
            else:
                owner[index] = new

        kind = draw.random()
        if isinstance(old, str) and old[:1] in "{[" and draw.random() < 0.8:
            put(inside(draw, old))  # JSON in a text, as headers hold it
        elif kind < 0.55:
            put(nasty(draw))
        elif kind < 0.65:
            del owner[index]
        elif kind < 0.75:
            owner.insert(index, [owner[index][0], nasty(draw)] if pairs else old)
        elif kind < 0.85 and pairs:
            owner[index] = [draw.choice(TEXTS), old]
        elif kind < 0.9:
            other, place = draw.choice(places)
            put(copy.deepcopy(other[place][1]) if isinstance(other, Pairs) and place < len(other) else nasty(draw))
        elif kind < 0.95 and isinstance(old, int | float) and not isinstance(old, bool):
            put(old * draw.choice([-1, 2, 0.5, 1000, 10**9]) if abs(old) < 1e200 else 0)
        else:
            put([old] if draw.random() < 0.5 else {"a": old})
    return value


def inside(draw: Draw, text: str) -> str:
    try:
        return dumps(value_of(draw, json.loads(text)))
    except (ValueError, RecursionError):
        return draw.choice(TEXTS)


def json_text(draw: Draw, data: bytes) -> bytes:
    if draw.random() < 0.12:
        return raw(draw, data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(draw, data)
    text = dumps(value_of(draw, value))
    encoding = "utf-8" if draw.random() < 0.97 else draw.choice(["utf-8-sig", "utf-16"])
    return text.encode(encoding, "surrogatepass")


def json_lines(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\n")
    for _ in range(draw.choice([1, 1, 2])):
        index = draw.randrange(len(lines))
        lines[index] = json_text(draw, lines[index] or b"{}")
    return b"\n".join(lines)


def raw(draw: Draw, data: bytes) -> bytes:
    """Bytes changed, cut, repeated or put in anywhere."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at = draw.randrange(len(found) + 1)
        match draw.randrange(7):
            case 0 | 1 if found:
                found[min(at, len(found) - 1)] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
            case 2:
                del found[at : at + draw.choice([1, 2, 4, 8, 64, 1000])]
            case 3:
                found[at:at] = draw.choice(
                    [
                        b"\xff\xff\xff\xff",
                        b"\xff" * 9,
                        b"\0" * 64,
                        "é".encode(),
                        b"\xed\xa0\x80",
                        b"[" * 99,
                        b"\n",
                        b",",
                    ]
                )
            case 4:
                del found[at:]
            case 5 if len(found) >= 4:
                at = min(at, len(found) - 4)
                number = draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**24, draw.getrandbits(32)])
                found[at : at + 4] = struct.pack(draw.choice("<>") + "I", number)
            case _:
                piece = found[at : at + draw.choice([1, 8, 64])]
                found[at:at] = piece * draw.choice([1, 2, 50])
    return bytes(found)


def lines(draw: Draw, data: bytes) -> bytes:
    """A text by its lines and words."""
    if draw.random() < 0.2:
        return raw(draw, data)
    found = data.decode().split("\n")
    for _ in range(draw.choice([1, 1, 2, 3])):
        at = draw.randrange(len(found))
        match draw.randrange(6):
            case 0:
                found.insert(at, found[draw.randrange(len(found))])
            case 1 if len(found) > 1:
                del found[at]
            case 2:
                found[at] = str(draw.choice(TEXTS))
            case _:
                words = re.split(r"(\W)", found[at])
                words[draw.randrange(len(words))] = str(draw.choice([*TEXTS, *map(str, NUMBERS)]))
                found[at] = "".join(words)
    return "\n".join(found).encode("utf-8", "surrogatepass")


def toml(draw: Draw, data: bytes) -> bytes:
    """A TOML file by its lines, values and keys."""
    if draw.random() < 0.3:
        return lines(draw, data)
    found = data.decode().split("\n")
    keyed = [index for index, line in enumerate(found) if "=" in line]
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.choice(keyed)
        key, _, value = found[at].partition("=")
        new = draw.choice(
            [
                *(dumps(one) for one in NUMBERS), *(json.dumps(one) for one in TEXTS), "nan", "inf", "-inf", "true", "[]",
                "{}", "[[[]]]", "[" * 90 + "]" * 90, "[" * 5000 + "]" * 5000, "{a=" * 3000 + "1" + "}" * 3000,
                "1979-05-27T07:32:00Z", "07:32:00", "0x" + "f" * 900, '"""', "[1,'a']",
            ]
        )  # fmt: skip
        match draw.randrange(4):
            case 0:
                found[at] = (
                    f"{draw.choice(['a.' * 50 + 'a', 'a.' * 20000 + 'a', '__class__', json.dumps('a' * 5000)])} = {value}"
                )
            case 1:
                found.insert(at, found[at])
            case _:
                found[at] = f"{key}= {new}"
    return "\n".join(found).encode("utf-8", "surrogatepass")


def safetensors(draw: Draw, data: bytes) -> bytes:
    """A safetensors file by its header."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = draw.random()
    if kind < 0.1:
        return raw(draw, data)
    if kind < 0.2:
        number = draw.choice([0, 1, 7, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1])
        return number.to_bytes(8, "little") + data[8:]
    if kind < 0.25:
        return data + bytes(draw.choice([1, 8, 4096]))
    if kind < 0.3:
        return data[: len(data) - draw.randrange(1, len(body) + 1)] if body else data
    if kind < 0.5:
        tree = json.loads(header)
        name = draw.choice([name for name in tree if name != "__metadata__"])
        entry = tree[name]
        match draw.randrange(6):
            case 0:
                entry["dtype"] = draw.choice(
                    ["F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "F32\n"]
                )
            case 1:
                entry["shape"] = draw.choice([[], [0], [2**62, 4], [2**40, 2**40], [-1], [1] * 12, [1] * 300, [2**64]])
            case 2:
                begin, end = entry["data_offsets"]
                entry["data_offsets"] = draw.choice(
                    [[end, begin], [begin + 1, end + 1], [begin, end - 1], [0, 0], [begin, 2**62], [begin], [0, 1, 2]]
                )
            case 3:
                tree[draw.choice(["../x", "a\x00", "", "a" * 9999, "\ud800"])] = tree.pop(name)
            case 4:
                entry[draw.choice(["x", "dtype2"])] = 1
            case _:
                tree["__metadata__"] = draw.choice([{"a": 1}, [], "a", {"a": None}, {"kandinsky": "[" * 5000}, {}])
        header = dumps(tree).encode("utf-8", "surrogatepass")
    elif kind < 0.6:
        return length.to_bytes(8, "little") + bytes(header) + raw(draw, body)
    else:
        header = json_text(draw, header)
    if draw.random() < 0.9:
        header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + body


OPCODES = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nbytearray\n", b"c__torch__\nX\n", b"ctorch\nFloatStorage\n",
    b"\x8b" + struct.pack("<i", 2**31 - 1), b"\x8e" + struct.pack("<Q", 2**60), b"\x8d" + struct.pack("<Q", 2**62),
    b"\x96" + struct.pack("<Q", 2**40), b"r" + struct.pack("<I", 2**32 - 1), b"j" + struct.pack("<I", 2**31),
    b"q\xff", b"(" * 5000, b"(]" * 3000 + b"e" * 3000, b"N\x85" * 20000, b"I" + b"9" * 5000 + b"\n", b"R", b"b", b"\x81",
    b"\x92", b"Q", b"\x82\x01", b"P1\n", b"0", b"1", b"2" * 9, b".", b"t", b"a", b"e", b"s", b"u", b"}", b"]", b"N", b"K\xff",
    b"J\xff\xff\xff\x7f", b"\x8a\x20" + b"\xff" * 32, b"G\x7f\xf8" + b"\0" * 6, b"\x95" + struct.pack("<Q", 2**50),
    b"X\x03\0\0\0\xed\xa0\x80",
]  # fmt: skip


def pickled(draw: Draw, data: bytes) -> bytes:
    """A pickle by its opcodes."""
    if draw.random() < 0.15:
        return raw(draw, data)
    try:
        begins = [place for _, _, place in pickletools.genops(data)]
        kinds = list(pickletools.genops(data))
    except ValueError:
        return raw(draw, data)
    ops = [bytearray(data[a:b]) for a, b in zip(begins, [*begins[1:], begins[-1] + 1], strict=True)]
    tail = data[begins[-1] + 1 :]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at = draw.randrange(len(ops))
        match draw.randrange(6):
            case 0:
                ops[at] = bytearray()
            case 1:
                ops.insert(at, ops[draw.randrange(len(ops))])
            case 2:
                ops.insert(at, bytearray(draw.choice(OPCODES)))
            case 3:
                numbers = [i for i, (op, _, _) in enumerate(kinds) if op.name.startswith(("BININT", "INT", "LONG"))]
                if numbers:
                    where = draw.choice(numbers)
                    if where < len(ops):
                        number = draw.choice([0, 1, -1, 2, 4, 7, 255, 2**16, 2**31, 2**40, 2**62, 2**70, -(2**40)])
                        ops[where] = bytearray(pickle.dumps(number, 2)[2:-1])
            case 4:
                texts = [i for i, (op, _, _) in enumerate(kinds) if "UNICODE" in op.name or op.name == "GLOBAL"]
                if texts:
                    where = draw.choice(texts)
                    if where < len(ops):
                        ops[where] = bytearray(pickle.dumps(draw.choice([t for t in TEXTS if t.isascii()]), 2)[2:-3])
            case _ if ops[at]:
                ops[at][draw.randrange(len(ops[at]))] = draw.randrange(256)
    return b"".join(bytes(op) for op in ops) + tail


def zipped(draw: Draw, data: bytes) -> bytes:
    """A zip archive of a pickle and its records."""
    kind = draw.random()
    if kind < 0.1:
        return raw(draw, data)
    if kind < 0.2:  # the directory is at the end
        cut = max(0, len(data) - 600)
        return data[:cut] + raw(draw, data[cut:])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    main = [index for index, (name, _) in enumerate(records) if name.endswith(".pkl")]
    method = zipfile.ZIP_STORED
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.choice(main) if draw.random() < 0.7 else draw.randrange(len(records))
        name, content = records[at]
        match draw.randrange(10):
            case 0:
                records[at] = (f"{name.rpartition('/')[0]}/{draw.choice(['../x', '', 'data.pkl', 'x' * 999])}", content)
            case 1:
                records.append((name, content))
            case 2 if len(records) > 1:
                del records[at]
                main = [index for index, (name, _) in enumerate(records) if name.endswith(".pkl")] or [0]
            case 3:
                method = draw.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
            case 4:
                records[at] = (name, content[: draw.randrange(len(content) + 1)])
            case 5:
                records.append((f"{name.rpartition('/')[0]}/{draw.randrange(9)}", b"\0" * draw.choice([10, 10**6])))
                method = zipfile.ZIP_DEFLATED
            case _:
                records[at] = (name, pickled(draw, content) if name.endswith(".pkl") else raw(draw, content))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in records:
            archive.writestr(zipfile.ZipInfo(name or "x"), content, method)
    found = made.getvalue()
    return raw(draw, found) if draw.random() < 0.05 else found


def torch_file(draw: Draw, data: bytes) -> bytes:
    return zipped(draw, data) if data[:2] == b"PK" else pickled(draw, data)


def png(draw: Draw, data: bytes) -> bytes:
    """A PNG by its chunks, whose checksums are right afterwards."""
    if draw.random() < 0.15:
        return raw(draw, data)
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.randrange(len(chunks))
        kind, content = chunks[at]
        texts = [i for i, (name, _) in enumerate(chunks) if name in (b"iTXt", b"tEXt", b"zTXt")]
        match draw.randrange(9):
            case 0:
                del chunks[at]
                chunks = chunks or [(b"IEND", b"")]
            case 1:
                chunks.insert(at, draw.choice(chunks))
            case 2:
                chunks[at] = (
                    draw.choice([b"IDAT", b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"iCCP"]),
                    content,
                )
            case 3:
                bomb = zlib.compress(b"\0" * draw.choice([10**4, 10**7]))
                chunks.insert(1, draw.choice([(b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb)]))
            case 4:
                side = struct.pack(
                    ">II", draw.choice([0, 1, 9, 2**16, 2**31 - 1, 2**32 - 1]), draw.choice([1, 8, 30000])
                )
                chunks[0] = (b"IHDR", side + chunks[0][1][8:])
            case 5 | 6 if texts:
                at = draw.choice(texts)
                kind, content = chunks[at]
                head, mark, text = content.partition(b"\0\0\0\0\0")
                if text[:1] == b"{":
                    chunks[at] = (kind, head + mark + json_text(draw, text))
                else:
                    chunks[at] = (kind, raw(draw, content))
            case _:
                chunks[at] = (kind, raw(draw, content))
    out = data[:8]
    for kind, content in chunks:
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


def protobuf(draw: Draw, data: bytes) -> bytes:
    if draw.random() < 0.5:
        return raw(draw, data)
    at = draw.randrange(len(data))
    new = draw.choice(
        [b"\xff" * 9 + b"\x01", b"\xff" * 4 + b"\x0f", b"\0", b"\x80" * 20, b"\x0a\x00", b"\x1a\x02\x12\x00"]
    )
    return data[:at] + new + data[at + draw.choice([0, 1, 2]) :]


BY_SUFFIX: dict[str, Callable[[Draw, bytes], bytes]] = {
    ".json": json_text,
    ".jsonl": json_lines,
    ".safetensors": safetensors,
    ".pt": torch_file,
    ".bin": torch_file,
    ".ckpt": torch_file,
    ".pkl": pickled,
    ".png": png,
    ".toml": toml,
    ".csv": lines,
    ".txt": lines,
    ".model": protobuf,
}


def mutate(draw: Draw, name: str, data: bytes) -> bytes:
    """The content of a file of that name, damaged."""
    suffix = name[name.rfind(".") :] if "." in name else ""
    return BY_SUFFIX.get(suffix, raw)(draw, data)
