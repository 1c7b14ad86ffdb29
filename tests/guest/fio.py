# SPDX-License-Identifier: BSD-3-Clause
"""What fio in a guest has to say."""
import json


def finished(job, timeout=240):
    """The I/Os of a job of fio with --output-format=json; fails on any error."""
    status, output = job.result(timeout)
    assert status == 0, output[-3000:]
    report = json.loads(output[output.index("{"):])["jobs"][0]
    assert report["error"] == 0, output[-3000:]
    return report["read"]["total_ios"] + report["write"]["total_ios"]
