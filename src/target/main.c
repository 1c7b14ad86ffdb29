/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"
#include "target/options.h"
#include "target/target.h"

int main(int argc, char **argv)
{
    struct program_options opts;
    int rc;

    log_set_program("snap_target");
    rc = options_parse(&opts, argc, argv);
    if (rc > 0)
        return rc - 1;
    return target_run(&opts);
}
