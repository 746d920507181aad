"""Read ELF objects of 32 and 64 bits, as far as tests need."""

import struct
from typing import NamedTuple

SYMBOL_TABLE, ARM_ATTRIBUTES = 2, 0x70000003
ARM_VECTORS, ARM_FLOATS = 12, 28  # build attributes: Tag_Advanced_SIMD_arch, Tag_ABI_VFP_args


class Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


def sections(data):
    """Return the sections of an object."""
    wide = data[4] == 2
    table = struct.unpack_from("<Q", data, 40)[0] if wide else struct.unpack_from("<I", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    layout = "<IIQQQQI" if wide else "<IIIIIII"
    rows = [struct.unpack_from(layout, data, table + size * index) for index in range(count)]
    return [Section(kind, offset, length, link) for _, kind, _, _, offset, length, link in rows]


def undefined_symbols(data):
    """Return the names that an object leaves to the linker."""
    layout = "<IBBHQQ" if data[4] == 2 else "<IIIBBH"
    found, names = sections(data), set()
    for table in found:
        if table.kind == SYMBOL_TABLE:
            step = struct.calcsize(layout)
            for at in range(table.offset + step, table.offset + table.size, step):  # the first entry is empty
                row = struct.unpack_from(layout, data, at)
                if (row[3] if data[4] == 2 else row[5]) == 0:
                    start = found[table.link].offset + row[0]
                    names.add(data[start : data.index(b"\0", start)].decode())
    return names


def arm_attributes(data):
    """Return the build attributes for the whole file by their tags; those with text are left out."""
    section = next(section for section in sections(data) if section.kind == ARM_ATTRIBUTES)
    at = data.index(b"aeabi\0", section.offset) + 6 + 5  # then the tag of the file's attributes, and their size
    end, found = section.offset + section.size, {}

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < end:
        tag = number()
        if tag in (4, 5, 67):  # names of the processor, and of the standard
            at = data.index(b"\0", at) + 1
        else:
            found[tag] = number()
    return found
