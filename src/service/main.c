/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crash_point.h"
#include "base/log.h"
#include "service/options.h"
#include "service/service.h"
#include "service/supervise.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SNAP_LEAVE_OUT_RECORDS
/* This build exists to be measured; nobody shall run it by mistake. */
static bool is_meant(void)
{
    const char *word = getenv("SNAP_NO_RECORDS");

    if (word && strcmp(word, "measure") == 0) {
        log_line(LOG_WARNING, "service",
                 "this build keeps no records: I/O in flight is lost when it ends");
        return true;
    }
    fprintf(stderr, "snap_service_no_records: guests lose I/O when it ends; it is there to measure "
                    "what records cost. Use snap_service, or set SNAP_NO_RECORDS=measure\n");
    return false;
}
#else
static bool is_meant(void)
{
    return true;
}
#endif

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
    if (!is_meant())
        return 2;
    if (opts.supervise)
        supervise();
    return service_run(&opts);
}
