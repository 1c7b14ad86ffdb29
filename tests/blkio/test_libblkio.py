# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk on vhost-user as libblkio drives it: another driver than Linux's, in another process than a VM.

Each test runs on qemu-storage-daemon too: what fails there as well is the instrument."""

import os
import re
import time

import pytest
from conftest import SIZE, finish, sparse

KIB, MIB = 1 << 10, 1 << 20
LOAD = 200_000  # requests of 4 KiB: seconds


def allocated(path):
    os.sync()
    return path.stat().st_blocks * 512


def test_size_and_sector_are_seen(server):
    shown = server.tools.img("info", "--image-opts", server.tools.disk)
    assert f"virtual size: {SIZE // MIB} MiB ({SIZE} bytes)" in shown


def test_what_one_process_writes_another_reads(server):
    server.tools.check_io("write -P 0x5a 0 1M", "write -P 0xa5 1M 512", "flush")
    server.tools.check_io("read -P 0x5a 0 1M", "read -P 0xa5 1M 512", f"read -P 0 {SIZE - 4096} 4k")


def test_a_wrong_byte_is_reported(server):
    server.tools.check_io("write -P 0x5a 2M 8k")
    status, text = server.tools.io("read -P 0x5b 2M 8k")
    assert status == 1
    assert f"Pattern verification failed at offset {2 * MIB}, 8192 bytes" in text


def test_writes_land_where_they_belong(server):
    if not server.image:
        # Without a file to look into: neighbours tell.
        server.tools.check_io("write -P 1 3M 64k", "write -P 2 3104k 512", "read -P 1 3M 32k", "read -P 2 3104k 512",
                              f"read -P 1 {3104 * KIB + 512} {32 * KIB - 512}")
        return
    server.tools.check_io("write -P 1 3M 64k", "write -P 2 3104k 512", "flush")
    with open(server.image, "rb") as file:
        file.seek(3 * MIB)
        assert file.read(64 * KIB) == b"\1" * 32 * KIB + b"\2" * 512 + b"\1" * (32 * KIB - 512)


def test_many_buffers_make_one_request(server):
    sizes = (512, 4096, 1024, 65536, 512, 131072, 512)
    words = " ".join(map(str, sizes))
    server.tools.check_io(f"writev -P 0x77 4M {words}", f"readv -P 0x77 4M {words}",
                          f"read -P 0x77 4M {sum(sizes)}")


def test_requests_in_flight_together_keep_their_data(server):
    count, step = 100, 20 * KIB
    writes = [f"aio_write -q -P {n + 1} {8 * MIB + n * step} {step}" for n in range(count)]
    reads = [f"aio_read -q -P {n + 1} {8 * MIB + n * step} {step}" for n in range(count)]
    status, text = server.tools.io(*writes, "aio_flush", *reads, "aio_flush")
    assert status == 0 and text == ""


def test_zeroes_are_written(server):
    server.tools.check_io("write -P 0x11 12M 1M", "write -z 12352k 64k", "read -P 0x11 12M 64k", "read -P 0 12352k 64k",
                          "read -P 0x11 12416k 896k")


def test_discarded_blocks_are_given_back(server):
    server.tools.check_io("write -P 0x22 16M 8M", "flush")
    before = server.image and allocated(server.image)
    server.tools.check_io("discard 17M 6M", "flush", "read -P 0x22 16M 1M", "read -P 0x22 23M 1M")
    if server.image:
        assert before - allocated(server.image) >= 5 * MIB
        server.tools.check_io("read -P 0 17M 6M")


@pytest.mark.parametrize("depth", (1, 32, 128))
def test_load_at_any_depth(server, depth):
    for mode in ((), ("-w", f"--pattern={depth}")):
        shown = server.tools.img("bench", "-c", 4000, "-d", depth, "-s", 4096, "-o", 32 * MIB, *mode, "-t", "none",
                                 "--image-opts", server.tools.disk)
        assert re.search(r"Run completed in [0-9.]+ seconds", shown)
    server.tools.check_io(f"read -P {depth} 32M {4000 * 4096}")


def test_an_image_is_copied_to_the_disk_and_compared(server, tmp_path):
    image = tmp_path / "random.img"
    image.write_bytes(os.urandom(SIZE // 2) + bytes(SIZE // 2))
    server.tools.img("convert", "-n", "-f", "raw", "--target-image-opts", image, server.tools.disk)
    source = f"driver=raw,file.driver=file,file.filename={image}"
    assert "identical" in server.tools.img("compare", "--image-opts", source, server.tools.disk)
    back = tmp_path / "back.img"
    server.tools.img("convert", "-O", "raw", "--image-opts", server.tools.disk, back)
    assert back.read_bytes() == image.read_bytes()
    # And a difference of one sector is seen.
    server.tools.check_io(f"write -P 0x33 {5 * MIB} 512")
    status, text = server.tools.run("qemu-img", "compare", "--image-opts", source, server.tools.disk)
    assert status == 1
    assert f"Content mismatch at offset {5 * MIB}" in text


def test_a_client_killed_at_work_leaves_the_disk_to_the_next(server):
    for _ in range(3):
        process = server.tools.start("qemu-img", "bench", "-c", 100_000_000, "-d", 128, "-w", "--pattern=7", "-t", "none",
                                     "--image-opts", server.tools.disk)
        time.sleep(0.5)
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.communicate()
        server.tools.check_io("write -P 0x44 40M 1M", "read -P 0x44 40M 1M")


def test_a_read_only_disk_is_read_and_not_written(read_only_server):
    tools = read_only_server.tools
    status, text = tools.io("read -P 0 0 1M", options=["-r"])
    assert status == 0, text
    status, text = tools.io("write -P 1 0 4k")
    assert status == 1
    assert re.search("read[- ]only", text, re.IGNORECASE), text
    if read_only_server.image:
        assert allocated(read_only_server.image) == 0


def test_the_client_does_not_notice_that_the_service_is_killed(our_server):
    kills, count = 5, 0
    for kill in range(kills):
        process = our_server.tools.start("qemu-img", "bench", "-c", LOAD, "-d", 64, "-s", 4096, "-w", f"--pattern={kill + 1}",
                                         "-t", "none", "--image-opts", our_server.tools.disk)
        time.sleep(0.2)
        count += process.poll() is None
        our_server.snap.kill_service()
        our_server.snap.start_service()
        status, text = finish(process)
        assert status == 0, text
        # The load goes round the disk, though never to its last block.
        our_server.tools.check_io(f"read -P {kill + 1} 0 {SIZE - 4096}")
    assert count >= kills - 1, f"the load was over before {kills - count} of {kills} kills"


def test_a_grown_disk_is_as_large_for_the_next_client(our_server):
    sparse(our_server.image, 2 * SIZE)
    our_server.snap.rpc("bdev_aio_rescan", name="File0")
    assert f"({2 * SIZE} bytes)" in our_server.tools.img("info", "--image-opts", our_server.tools.disk)
    our_server.tools.check_io(f"write -P 9 {2 * SIZE - 4096} 4k", f"read -P 9 {2 * SIZE - 4096} 4k")
