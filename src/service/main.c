/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crash_point.h"
#include "base/log.h"
#include "service/options.h"
#include "service/service.h"
#include "service/supervise.h"

int main(int argc, char **argv)
{
    struct options opts;
    int rc;

    log_set_program("snap_service");
#ifdef SNAP_CRASH_POINTS
    if (crash_point_program_ends(argc, argv, &rc))
        return rc;
#endif
    rc = options_parse(&opts, argc, argv);
    if (rc > 0)
        return rc - 1;
    if (opts.supervise)
        supervise();
    return service_run(&opts);
}
