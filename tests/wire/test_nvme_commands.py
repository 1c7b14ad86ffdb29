# SPDX-License-Identifier: BSD-3-Clause
"""Commands a hostile guest sends: exact statuses, nothing read or written outside."""
import random
import struct

import pytest
from disks import BLOCKS
from nvme import (DSM, FLUSH, GET_FEATURES, GET_LOG_PAGE, IDENTIFY, READ, SET_FEATURES, WRITE, WRITE_ZEROES, Nvme, pattern,
                  sqe)


def run(n, command):
    return n.io[1].run(command).status


@pytest.fixture
def at(nvme):
    return nvme.memory.alloc(1 << 20)


def rw(n, opc, lba, nblocks, prp1, prp2=0, nsid=1, flags=0, cdw12=0):
    return sqe(opc, nsid=nsid, prp1=prp1, prp2=prp2, cdw10=lba & 0xffffffff, cdw11=lba >> 32, flags=flags,
               cdw12=nblocks - 1 & 0xffff | cdw12)


# ---- B7 ----

def test_unknown_opcodes(nvme, neighbour):
    known_io = {0, 1, 2, 8, 9}
    for opc in range(256):
        if opc not in known_io and opc not in (4, 5, 0xc, 0xd, 0xe, 0x11, 0x15, 0x19):
            assert run(nvme, sqe(opc, nsid=1)) == "INVALID_OPCODE", hex(opc)
    for opc in (3, 7, 0xb, 0x33, 0x7b, 0xc0, 0xff):
        assert nvme.run_admin(opc, ok=False).status == "INVALID_OPCODE", hex(opc)


def test_commands_not_advertised_are_refused(nvme):
    oncs = struct.unpack_from("<H", nvme.identify(1), 520)[0]
    for opc, bit in ((5, 0), (4, 1), (0xc, 7), (0xd, 5), (0x19, 8)):
        if not oncs >> bit & 1:
            assert run(nvme, sqe(opc, nsid=1)) == "INVALID_OPCODE"
    oacs = struct.unpack_from("<H", nvme.identify(1), 256)[0]
    for opc, bit in ((0x80, 1), (0x81, 0), (0xd, 3), (0x14, 4), (0x11, 2)):
        if not oacs >> bit & 1:
            assert nvme.run_admin(opc, ok=False, nsid=1).status == "INVALID_OPCODE", hex(opc)


@pytest.mark.parametrize("nsid", [0, 2, 1000, 0xfffffffe, 0xffffffff])
def test_wrong_namespaces(nvme, at, nsid):
    for opc in (READ, WRITE, WRITE_ZEROES):
        assert run(nvme, rw(nvme, opc, 0, 1, at, nsid=nsid)) in ("INVALID_NAMESPACE", "INVALID_FIELD")
    if nsid == 0xffffffff:
        assert run(nvme, sqe(FLUSH, nsid=nsid)) == "SUCCESS"
    else:
        assert run(nvme, sqe(FLUSH, nsid=nsid)) in ("INVALID_NAMESPACE", "INVALID_FIELD")


def test_fused_and_reserved_flags(nvme, at):
    for flags in (1, 2, 3, 0xc0):
        assert run(nvme, rw(nvme, READ, 0, 1, at, flags=flags)) in ("INVALID_FIELD", "INVALID_OPCODE")
    assert run(nvme, rw(nvme, READ, 0, 1, at)) == "SUCCESS"


# ---- B8 ----

def test_prp_offsets(nvme, at):
    assert run(nvme, rw(nvme, READ, 0, 1, at + 1)) == "PRP_OFFSET"
    assert run(nvme, rw(nvme, READ, 0, 1, at + 2)) == "PRP_OFFSET"
    assert run(nvme, rw(nvme, READ, 0, 1, at + 4)) == "SUCCESS"
    assert run(nvme, rw(nvme, READ, 0, 16, at, at + 4096 + 512)) == "PRP_OFFSET"
    assert run(nvme, rw(nvme, READ, 0, 32, at, at + 4)) in ("PRP_OFFSET", "DATA_TRANSFER_ERROR")


def test_misaligned_buffer_carries_the_right_bytes(nvme, at):
    """Dword-aligned is legal: read and write through it."""
    data = pattern(30, 8192)
    nvme.memory.write(at + 516, data)
    assert run(nvme, nvme.rw(WRITE, 100, 16, at + 516, 8192)) == "SUCCESS"
    nvme.memory.write(at, bytes(16384))
    assert run(nvme, nvme.rw(READ, 100, 16, at + 1028, 8192)) == "SUCCESS"
    assert nvme.memory.read(at + 1028, 8192) == data
    assert nvme.memory.read(at, 1028) == bytes(1028)


def test_prp_lists_of_every_shape(nvme, at):
    data = pattern(31, 512 * 1024)
    nvme.memory.write(at, data)
    assert run(nvme, nvme.rw(WRITE, 0, 1024, at, len(data))) == "SUCCESS"
    nvme.memory.write(at, bytes(len(data)))
    # Pages in reverse order.
    pages = [at + 4096 * i for i in range(128)][::-1]
    page_list = nvme.memory.alloc(4096)
    nvme.memory.write(page_list, struct.pack("<127Q", *pages[1:]))
    assert run(nvme, rw(nvme, READ, 0, 1024, pages[0], page_list)) == "SUCCESS"
    assert b"".join(nvme.memory.read(p, 4096) for p in pages) == data
    # A list that begins at the end of a page and goes on in the next one.
    first, second = nvme.memory.alloc(4096), nvme.memory.alloc(4096)
    nvme.memory.write(at, bytes(len(data)))
    nvme.memory.write(first + 4096 - 16, struct.pack("<QQ", pages[1], second))
    nvme.memory.write(second, struct.pack("<126Q", *pages[2:]))
    assert run(nvme, rw(nvme, READ, 0, 1024, pages[0], first + 4096 - 16)) == "SUCCESS"
    assert b"".join(nvme.memory.read(p, 4096) for p in pages) == data


def test_bad_prp_lists_are_bounded_and_write_nothing(nvme, at, neighbour):
    before = b"\x5a" * 65536
    nvme.memory.write(at, before)
    page_list = nvme.memory.alloc(4096)
    for entries in ([0] * 15, [at + 4096 + 8] * 15, [0x7777_0000_0000] * 15, [0xffff_ffff_ffff_f000] * 15, [at + 1] * 15):
        nvme.memory.write(page_list, struct.pack("<15Q", *entries))
        assert run(nvme, rw(nvme, READ, 0, 128, at, page_list)) in ("PRP_OFFSET", "DATA_TRANSFER_ERROR")
    # Chained to itself: the last entry of the page points to the page.
    nvme.memory.write(page_list + 4088, struct.pack("<Q", page_list + 4088))
    assert run(nvme, rw(nvme, READ, 0, 1024, at, page_list + 4088)) in ("PRP_OFFSET", "DATA_TRANSFER_ERROR", "SUCCESS")
    for prp2 in (0, 0x7777_0000_0000, 0xffff_ffff_ffff_fff8, page_list + 4):
        assert run(nvme, rw(nvme, READ, 0, 128, at, prp2)) in ("PRP_OFFSET", "DATA_TRANSFER_ERROR")
    assert run(nvme, rw(nvme, READ, 0, 1, 0x7777_0000_0000)) == "DATA_TRANSFER_ERROR"
    assert run(nvme, rw(nvme, READ, 0, 1, 0)) == "DATA_TRANSFER_ERROR"


def test_dma_into_a_bar_is_refused(nvme):
    """B13: our own BAR page at its guest address is known but not memory."""
    nvme.vc.dma_map(0xfe001000, 0x1000)
    assert run(nvme, rw(nvme, READ, 0, 8, 0xfe001000)) == "DATA_TRANSFER_ERROR"
    nvme.vc.dma_unmap(0xfe001000, 0x1000)


def test_list_changed_during_the_walk_harms_only_the_guest(path, neighbour):
    with Nvme(path) as n:
        at, page_list = n.memory.alloc(65536), n.memory.alloc(4096)
        good = struct.pack("<15Q", *[at + 4096 * i for i in range(1, 16)])
        bad = struct.pack("<15Q", *[0x7777_0000_0000] * 15)
        for i in range(300):
            n.memory.write(page_list, good)
            cid = n.io[1].submit(rw(n, READ, 0, 128, at, page_list))
            n.memory.write(page_list, bad)
            assert n.io[1].wait(cid).status in ("SUCCESS", "DATA_TRANSFER_ERROR", "PRP_OFFSET")


# ---- B9 ----

def sgl(kind, addr, length):
    return struct.pack("<QI3xB", addr, length, kind << 4)


def sgl_command(opc, lba, nblocks, descriptor, nsid=1):
    raw = rw(None, opc, lba, nblocks, 0, flags=0x40, nsid=nsid)
    return raw[:24] + descriptor + raw[40:]


def sgl_supported(n):
    return struct.unpack_from("<I", n.identify(1), 536)[0] & 3


def test_sgl_forms(nvme, at):
    assert sgl_supported(nvme)
    data = pattern(32, 65536)
    nvme.memory.write(at, data)
    assert run(nvme, sgl_command(WRITE, 200, 128, sgl(0, at, 65536))) == "SUCCESS"
    segment = nvme.memory.alloc(4096)
    # A last segment of four blocks in odd order.
    parts = [(at + 0x20000, 4096), (at + 0x50000, 20480), (at + 0x30000, 512), (at + 0x40000, 40448)]
    nvme.memory.write(segment, b"".join(sgl(0, a, s) for a, s in parts))
    assert run(nvme, sgl_command(READ, 200, 128, sgl(3, segment, 64))) == "SUCCESS"
    assert b"".join(nvme.memory.read(a, s) for a, s in parts) == data
    # A segment, then a last segment.
    nvme.memory.write(segment, sgl(0, at + 0x20000, 4096) + sgl(3, segment + 2048, 16))
    nvme.memory.write(segment + 2048, sgl(0, at + 0x60000, 61440))
    assert run(nvme, sgl_command(READ, 200, 128, sgl(2, segment, 32))) == "SUCCESS"
    assert nvme.memory.read(at + 0x20000, 4096) + nvme.memory.read(at + 0x60000, 61440) == data


def test_bad_sgls(nvme, at, neighbour):
    segment = nvme.memory.alloc(4096)
    sgl_bad = ("INVALID_SGL_SEGMENT", "INVALID_SGL_COUNT", "SGL_DATA_LENGTH", "SGL_TYPE", "DATA_TRANSFER_ERROR",
               "SGL_OFFSET", "INVALID_FIELD")
    assert run(nvme, sgl_command(READ, 0, 8, sgl(0, at, 4095))) in sgl_bad
    assert run(nvme, sgl_command(READ, 0, 8, sgl(0, at, 512))) == "SGL_DATA_LENGTH"
    assert run(nvme, sgl_command(READ, 0, 8, sgl(0, at, 0))) in sgl_bad
    for kind in (4, 6, 9, 15):
        assert run(nvme, sgl_command(READ, 0, 8, sgl(kind, at, 4096))) == "SGL_TYPE", kind
    assert run(nvme, sgl_command(READ, 0, 8, sgl(0, 0x7777_0000_0000, 4096))) == "DATA_TRANSFER_ERROR"
    assert run(nvme, sgl_command(READ, 0, 8, sgl(0, 0xffff_ffff_ffff_f000, 0x2000))) in sgl_bad
    for length in (0, 1, 15, 17, 0xfffffff0, 0xffffffff):
        assert run(nvme, sgl_command(READ, 0, 8, sgl(3, segment, length))) in sgl_bad, length
    # A loop of segments, and a last segment in the middle.
    nvme.memory.write(segment, sgl(2, segment, 16))
    assert run(nvme, sgl_command(READ, 0, 8, sgl(2, segment, 16))) in sgl_bad
    nvme.memory.write(segment, sgl(0, at, 512) + sgl(2, segment, 32))
    assert run(nvme, sgl_command(READ, 0, 8, sgl(2, segment, 32))) in sgl_bad
    nvme.memory.write(segment, sgl(3, segment, 16) + sgl(0, at, 4096))
    assert run(nvme, sgl_command(READ, 0, 8, sgl(3, segment, 32))) in sgl_bad
    nvme.memory.write(segment, sgl(0, at, 512) * 256)
    assert run(nvme, sgl_command(READ, 0, 8, sgl(3, segment, 4096))) in sgl_bad
    nvme.read(0, 1)


# ---- B10 ----

@pytest.mark.parametrize("lba,count", [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 8, 16), (1 << 63, 1),
                                       (0xffff_ffff_ffff_ffff, 1), (0xffff_ffff_ffff_fff8, 16), (1 << 55, 8)])
def test_ranges_beyond_the_end(nvme, at, lba, count):
    for opc in (READ, WRITE, WRITE_ZEROES):
        assert run(nvme, nvme.rw(opc, lba, count, at)) == "LBA_RANGE"


def test_transfer_beyond_mdts(nvme, at):
    mdts = nvme.identify(1)[77]
    blocks = (4096 << mdts) // 512
    if blocks < 65536:
        assert run(nvme, rw(nvme, READ, 0, min(blocks + 1, 65536), at, at)) == "INVALID_FIELD"
    assert run(nvme, rw(nvme, READ, 0, 65536, at, at)) in ("INVALID_FIELD", "LBA_RANGE")


def test_protection_fields_without_protection_format(nvme, at):
    status = run(nvme, rw(nvme, READ, 0, 1, at, cdw12=0xf << 26))
    assert status in ("SUCCESS", "INVALID_FIELD", "0x181")
    assert run(nvme, rw(nvme, READ, 0, 1, at, cdw12=1 << 31)) == "SUCCESS"  # limited retry: read-ahead sends it
    assert run(nvme, sqe(READ, nsid=1, prp1=at, cdw13=7)) == "SUCCESS"      # access hints


def test_fua_write_flush_and_write_zeroes(nvme, at):
    nvme.memory.write(at, pattern(33, 4096))
    assert run(nvme, rw(nvme, WRITE, 300, 8, at, cdw12=1 << 30)) == "SUCCESS"
    assert run(nvme, sqe(FLUSH, nsid=1)) == "SUCCESS"
    assert nvme.read(300, 8) == pattern(33, 4096)
    assert run(nvme, rw(nvme, WRITE_ZEROES, 301, 2, 0)) == "SUCCESS"
    assert nvme.read(300, 8) == pattern(33, 4096)[:512] + bytes(1024) + pattern(33, 4096)[1536:]
    assert run(nvme, rw(nvme, WRITE_ZEROES, 304, 1, 0, cdw12=1 << 25)) == "SUCCESS"
    assert nvme.read(304, 1) == bytes(512)


def test_deallocate_ranges(nvme, at):
    nvme.write(400, pattern(34, 8192))
    ranges = b"".join(struct.pack("<IIQ", 0, 2, 400 + 4 * i) for i in range(3))
    nvme.memory.write(at, ranges)
    assert run(nvme, sqe(DSM, nsid=1, prp1=at, cdw10=2, cdw11=4)) == "SUCCESS"
    kept = nvme.read(400, 16)
    for i in range(16):
        if i >= 12 or i % 4 >= 2:
            assert kept[512 * i:512 * (i + 1)] == pattern(34, 8192)[512 * i:512 * (i + 1)]
    for bad in (struct.pack("<IIQ", 0, 8, BLOCKS - 4), struct.pack("<IIQ", 0, 0xffffffff, 1),
                struct.pack("<IIQ", 0, 1, 0xffff_ffff_ffff_ffff)):
        nvme.memory.write(at, bad)
        assert run(nvme, sqe(DSM, nsid=1, prp1=at, cdw10=0, cdw11=4)) == "LBA_RANGE"
    nvme.memory.write(at, struct.pack("<IIQ", 0, 1, 0) * 256)
    assert run(nvme, sqe(DSM, nsid=1, prp1=at, cdw10=255, cdw11=0)) == "SUCCESS"  # only hints
    assert run(nvme, sqe(DSM, nsid=1, prp1=0x7777_0000_0000, cdw10=0, cdw11=4)) == "DATA_TRANSFER_ERROR"


# ---- B11 ----

def test_identify_of_everything(nvme):
    for cns in range(256):
        nvme.memory.write(nvme.page, b"\xcc" * 4096)
        cqe = nvme.run_admin(IDENTIFY, ok=False, nsid=1, prp1=nvme.page, cdw10=cns)
        assert cqe.status in ("SUCCESS", "INVALID_FIELD", "INVALID_NAMESPACE", "0x129"), (cns, cqe)
        if cns in (0, 1, 2, 3, 5, 6, 8):
            assert cqe.status == "SUCCESS" or cns == 2, (cns, cqe)
    assert nvme.run_admin(IDENTIFY, ok=False, nsid=0, prp1=nvme.page, cdw10=2).status == "SUCCESS"
    assert nvme.run_admin(IDENTIFY, ok=False, nsid=5, prp1=nvme.page, cdw10=0).status in ("SUCCESS", "INVALID_NAMESPACE")
    assert nvme.run_admin(IDENTIFY, ok=False, nsid=1, prp1=nvme.page, cdw10=5, cdw11=9 << 24).status != "SUCCESS"
    assert nvme.run_admin(IDENTIFY, ok=False, nsid=1, prp1=0x7777_0000_0000, cdw10=1).status == "DATA_TRANSFER_ERROR"


def get_log(n, lid, dwords, offset=0, nsid=0xffffffff, ok=False, at=None):
    at = at or n.page
    return n.run_admin(GET_LOG_PAGE, ok=ok, nsid=nsid, prp1=at, cdw10=lid | (dwords - 1 & 0xffff) << 16,
                       cdw11=dwords - 1 >> 16, cdw12=offset & 0xffffffff, cdw13=offset >> 32)


def test_log_pages(nvme):
    for lid in range(6):
        assert get_log(nvme, lid, 16).status == "SUCCESS", lid
    for lid in (6, 0xc, 0x10, 0x70, 0xc0, 0xff):
        assert get_log(nvme, lid, 16).status in ("LOG_PAGE", "INVALID_FIELD"), lid
    for lid, length in ((0, 1024), (1, 64 * 64), (2, 512), (3, 512), (4, 4096), (5, 4096)):
        assert get_log(nvme, lid, 4, offset=length + 1 << 20).status in ("INVALID_FIELD", "LOG_PAGE")
        assert get_log(nvme, lid, 4, offset=0xffff_ffff_ffff_fffc).status in ("INVALID_FIELD", "LOG_PAGE")
        assert get_log(nvme, lid, 4, offset=2).status == "INVALID_FIELD"
    assert get_log(nvme, 2, 1 << 30).status in ("INVALID_FIELD", "DATA_TRANSFER_ERROR", "PRP_OFFSET")


def test_log_page_tail_shows_no_foreign_bytes(nvme):
    """More than the page has: zeroes, never what lies behind it in the service."""
    nvme.memory.write(nvme.page, b"\xcc" * 4096)
    cqe = get_log(nvme, 2, 1024)
    if cqe.status == "SUCCESS":
        assert nvme.memory.read(nvme.page, 4096)[512:].strip(b"\0\xcc") == b""
    nvme.memory.write(nvme.page, b"\xcc" * 4096)
    cqe = get_log(nvme, 3, 256, offset=256)
    if cqe.status == "SUCCESS":
        assert nvme.memory.read(nvme.page, 1024)[256:].strip(b"\0\xcc") == b""


def test_features(nvme):
    for fid in (1, 2, 4, 5, 6, 7, 8, 9, 0xb, 0xe):
        cqe = nvme.run_admin(GET_FEATURES, ok=False, prp1=nvme.page, cdw10=fid)
        assert cqe.status == "SUCCESS", (hex(fid), cqe)
    for fid in (0, 0x7f, 0xc0, 0xff):
        assert nvme.run_admin(GET_FEATURES, ok=False, prp1=nvme.page, cdw10=fid).status == "INVALID_FIELD", hex(fid)
        assert nvme.run_admin(SET_FEATURES, ok=False, prp1=nvme.page, cdw10=fid).status == "INVALID_FIELD", hex(fid)
    assert nvme.run_admin(SET_FEATURES, ok=False, cdw10=1 | 1 << 31).status in ("FEATURE_NOT_SAVEABLE", "INVALID_FIELD")
    assert nvme.run_admin(SET_FEATURES, ok=False, cdw10=2, cdw11=31).status == "INVALID_FIELD"
    assert nvme.run_admin(SET_FEATURES, ok=False, cdw10=9, cdw11=0xffff).status == "INVALID_FIELD"
    for sel in (4, 5, 6, 7):
        assert nvme.run_admin(GET_FEATURES, ok=False, cdw10=6 | sel << 8).status == "INVALID_FIELD"
    assert nvme.run_admin(SET_FEATURES, ok=False, prp1=0x7777_0000_0000, cdw10=0xe).status == "DATA_TRANSFER_ERROR"
    nvme.read(0, 1)


def test_feature_values_are_kept(nvme):
    for fid, value in ((4, 0x0155), (5, 0x10), (8, 0x0403), (0xb, 0x100), (1, 0x01020300)):
        if nvme.run_admin(SET_FEATURES, ok=False, cdw10=fid, cdw11=value).status == "SUCCESS":
            assert nvme.run_admin(GET_FEATURES, cdw10=fid).dw0 == value, hex(fid)


def test_random_commands_for_a_while(path, neighbour):
    rng = random.Random(8)
    with Nvme(path) as n:
        at = n.memory.alloc(1 << 20)
        for _ in range(3000):
            opc = rng.choice((READ, WRITE, FLUSH, WRITE_ZEROES, DSM, rng.randrange(256)))
            addr = [rng.choice((at, at + rng.randrange(1 << 19), 0, rng.getrandbits(64))) for _ in range(2)]
            n.io[1].run(sqe(opc, nsid=rng.choice((1, 1, 1, 0, 0xffffffff, 2)), prp1=addr[0], prp2=addr[1],
                            cdw10=rng.choice((0, rng.randrange(BLOCKS), rng.getrandbits(32))),
                            cdw11=rng.choice((0, 4, rng.getrandbits(32))), cdw12=rng.choice((0, 7, rng.getrandbits(32))),
                            flags=rng.choice((0, 0, 0x40, rng.getrandbits(8)))))
        for _ in range(1000):
            opc = rng.choice((IDENTIFY, GET_LOG_PAGE, GET_FEATURES, SET_FEATURES, 8, 5, 1, 0, 4, 0x7c))
            n.admin.run(sqe(opc, nsid=rng.choice((0, 1, 0xffffffff)), prp1=rng.choice((at, n.page, rng.getrandbits(64))),
                            prp2=rng.choice((0, rng.getrandbits(64))), cdw10=rng.getrandbits(32) & 0xff00ff,
                            cdw11=rng.getrandbits(32)), timeout=10)
    with Nvme(path) as n:
        n.write(0, pattern(40, 512))
        assert n.read(0, 1) == pattern(40, 512)
