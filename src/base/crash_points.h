/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/crash_points.h - all places at which a test build can be made to die: wherever state that
 * outlives the process is half-way changed. crash_point() takes no other names, and
 * tests/recovery/test_crash_points.py fails when it does not reach one of them.
 *
 * X(name, device kind, what has been done | what comes next, situation)
 * Kinds: "nvme", "vblk", "both"; "emu": snap_emu dies, whatever the kind. By the situation the test
 * knows what to do to get there. */
#ifndef BASE_CRASH_POINTS_H
#define BASE_CRASH_POINTS_H

/* clang-format off */
#define CRASH_POINTS(X)                                                                                                                       \
    /* ---- fetch and complete: NVMe ---- */                                                                                                  \
    X(nvme_slots_used, "nvme", "a slot counts as used for the first time | its record is filled", "first I/O")                                 \
    X(nvme_record_filled, "nvme", "a record is filled | the next one of the batch", "I/O")                                                     \
    X(nvme_fetch_copied, "nvme", "all records of a batch are filled | the queue's head is stored", "I/O")                                      \
    X(nvme_fetch_published, "nvme", "the head is stored | the first command is executed", "I/O")                                               \
    X(nvme_start_counted, "nvme", "a start is counted | the command is executed", "I/O")                                                       \
    X(nvme_executed, "nvme", "a command is executed | its intent is stored", "I/O")                                                            \
    X(nvme_intent_values, "nvme", "status and result are in a record | the intent is valid", "I/O")                                            \
    X(nvme_intent_stored, "nvme", "one intent is stored | the next one of the batch", "I/O")                                                   \
    X(nvme_intents_stored, "nvme", "all intents of a batch are stored | the CQEs are written", "I/O")                                          \
    X(nvme_cqe_half, "nvme", "half a CQE is written | the half with the phase tag", "I/O")                                                     \
    X(nvme_cqe_written, "nvme", "one CQE is written | the next one of the batch", "I/O")                                                       \
    X(nvme_cqes_written, "nvme", "all CQEs of a batch are written | the CQ tail is stored", "I/O")                                             \
    X(nvme_tail_stored, "nvme", "the CQ tail is stored | the slots are freed", "I/O")                                                          \
    X(nvme_record_freed, "nvme", "one slot is freed | the next one of the batch", "I/O")                                                       \
    X(nvme_batch_freed, "nvme", "all slots of a batch are freed | the interrupt is sent", "I/O")                                               \
    /* ---- fetch and complete: virtqueues ---- */                                                                                            \
    X(vq_slots_used, "vblk", "a slot counts as used for the first time | its record is filled", "first I/O")                                   \
    X(vq_record_filled, "vblk", "a record is filled | it is mirrored, then the next one of the batch", "I/O")                                  \
    X(vq_fetch_copied, "vblk", "all records of a batch are filled | the fetch cursor is stored", "I/O")                                        \
    X(vq_fetch_published, "vblk", "the fetch cursor is stored | the first chain is executed", "I/O")                                           \
    X(vq_start_counted, "vblk", "a start is counted | the request is executed", "I/O")                                                         \
    X(vblk_executed, "vblk", "a request is executed | its status byte is written", "I/O")                                                      \
    X(vblk_status_written, "vblk", "the status byte is written | the intent is stored", "I/O")                                                 \
    X(vq_intent_values, "vblk", "the length is in a record | the intent is valid", "I/O")                                                      \
    X(vq_intent_stored, "vblk", "one intent is stored | the next one of the batch", "I/O")                                                     \
    X(vq_intents_stored, "vblk", "all intents of a batch are stored | the used entries are written", "I/O")                                    \
    X(vq_used_entry_written, "vblk", "one used entry is written | the next one of the batch", "I/O")                                           \
    X(vq_used_written, "vblk", "all used entries are written | they are published", "I/O")                                                     \
    X(vq_used_published, "vblk", "the used entries are published | the used cursor is stored", "I/O")                                          \
    X(vq_tail_stored, "vblk", "the used cursor is stored | the records are freed", "I/O")                                                      \
    X(vq_record_freed, "vblk", "one record is freed | the next one of the batch", "I/O")                                                       \
    X(vq_batch_freed, "vblk", "all records of a batch are freed | the interrupt is sent", "I/O")                                               \
    /* ---- the in-flight area; in its situation snap_emu and the state memory die as well ---- */                                            \
    X(vq_mirror_filled, "vblk", "an entry of the area is filled | it counts as in flight", "I/O, both die")                                    \
    X(vq_mirror_fetched, "vblk", "an entry of the area is in flight | the free list, then the fetch cursor", "I/O, both die")                  \
    X(vq_mirror_linked, "vblk", "a batch is linked in the area | its head is stored", "I/O, both die")                                         \
    X(vq_mirror_posting, "vblk", "the area tells of the batch | the used entries are written", "I/O, both die")                                \
    X(vq_mirror_published, "vblk", "the used entries are published | the area is told", "I/O, both die")                                       \
    X(vq_mirror_over, "vblk", "one entry of the area is no longer in flight | the next one of the batch", "I/O, both die")                     \
    X(vq_mirror_posted, "vblk", "no entry of the batch is in flight | the area's used index is stored", "I/O, both die")                       \
    X(vq_readback_records, "vblk", "records are made from the area | the ring counts as started", "readback")                                  \
    /* ---- the lease and its hand-over ---- */                                                                                               \
    X(link_leased, "both", "the lease is granted, state memory mapped | the rest is heard", "adoption")                                        \
    X(link_synced, "both", "everything is heard | adoption begins", "adoption")                                                                \
    X(link_adopted, "both", "the function is adopted | snap_emu is told to start it", "adoption")                                              \
    X(link_started, "both", "snap_emu is told to start the function | the controller is resumed", "adoption")                                  \
    X(link_releasing, "both", "the function is let go | the lease is given back", "controller destroy")                                        \
    X(link_released, "both", "the lease is given back | the call is saved and answered", "controller destroy")                                 \
    X(link_memory_closed, "both", "memory is unmapped | snap_emu is told", "memory unmap")                                                     \
    X(link_reset_done, "both", "the device is reset | snap_emu is told", "function reset")                                                     \
    X(link_queue_stopped, "vblk", "a ring is stopped | snap_emu is told its base", "ring stop")                                                \
    X(link_register_applied, "both", "a register write has had its effect | it counts as applied", "register write")                           \
    /* ---- snap_emu dies, and the service ends with it ---- */                                                                               \
    X(emu_hello, "emu", "a service is here | it is told so", "hello")                                                                          \
    X(emu_granting, "emu", "a function is leased | the service hears of it", "lease")                                                          \
    X(emu_granted_half, "emu", "the service has state memory, guest memory, queues | it may adopt", "lease")                                   \
    X(emu_granted, "emu", "the service may adopt | anything else", "lease")                                                                    \
    X(emu_fenced, "emu", "a service is fenced | its functions are free", "fence")                                                              \
    X(emu_let_go, "emu", "a function is free | who waits for it gets it", "fence")                                                             \
    X(emu_holder_over, "emu", "a holder of an earlier snap_emu is gone | so is its file", "former holder")                                     \
    X(emu_released, "emu", "a lease was given back | the service hears that it was", "release")                                                \
    X(emu_kept, "emu", "memory is kept | the service gets it", "keep")                                                                         \
    X(emu_base_known, "emu", "a ring's base is known | its in-flight area is void", "ring stop")                                               \
    X(emu_area_void, "emu", "a ring's in-flight area is void | the front end hears its base", "ring stop")                                     \
    X(emu_reset_half, "emu", "the front end's half of a reset is done | registers", "reset")                                                   \
    /* ---- adoption: NVMe ---- */                                                                                                            \
    X(nvme_state_half, "nvme", "state memory is laid out | it is valid", "first lease")                                                        \
    X(nvme_adopt_counted, "nvme", "the adoption is counted | queues are opened", "adoption")                                                   \
    X(nvme_adopt_queues, "nvme", "queues are opened | registers are looked at", "adoption")                                                    \
    X(nvme_adopt_registers, "nvme", "registers are looked at | the adoption counts as survived", "adoption")                                   \
    X(nvme_adopt_record_over, "nvme", "one record that is over is freed | the next one", "adoption after nvme_tail_stored")                    \
    X(nvme_adopt_sorted, "nvme", "records are sorted | stored intents are put in line", "adoption after nvme_intents_stored")                  \
    X(nvme_adopt_reposting, "nvme", "stored intents are in line | namespaces are stored", "adoption after nvme_intents_stored")                \
    X(nvme_adopt_reposted, "nvme", "stored intents are posted again | live commands are started", "adoption after nvme_intents_stored")        \
    X(nvme_adopt_restarted, "nvme", "one live command is started again | the next one", "adoption after nvme_fetch_published")                 \
    X(nvme_adopt_done, "nvme", "all is started again | interrupts are sent", "adoption after nvme_fetch_published")                            \
    X(nvme_adopt_void, "nvme", "the state of another epoch is reset | registers", "adoption after a reset")                                    \
    X(nvme_adopt_epoch, "nvme", "registers are reset | the epoch is stored", "adoption after a reset")                                         \
    /* ---- adoption: virtio-blk ---- */                                                                                                      \
    X(vblk_state_half, "vblk", "state memory is laid out | it is valid", "first lease")                                                        \
    X(vblk_adopt_counted, "vblk", "the adoption of a ring is counted | its records are sorted", "adoption")                                    \
    X(vq_adopt_record_over, "vblk", "one record that is over is freed | the next one", "adoption after vq_tail_stored")                        \
    X(vq_adopt_sorted, "vblk", "records are sorted | the ring is opened", "adoption after vq_intents_stored")                                  \
    X(vq_sync_begun, "vblk", "the in-flight area is invalid | it is written anew", "adoption")                                                 \
    X(vq_sync_filled, "vblk", "the in-flight area is written anew | it is valid", "adoption")                                                  \
    X(vblk_adopt_opened, "vblk", "a ring is opened | the adoption counts as survived", "adoption")                                             \
    X(vblk_identity_stored, "vblk", "one field of the identity is stored | the others", "adoption")                                            \
    X(vblk_adopt_resuming, "vblk", "the identity is stored | chains are restarted", "adoption")                                                \
    X(vblk_adopt_reposted, "vblk", "stored intents are posted again | live chains are started", "adoption after vq_intents_stored")            \
    X(vblk_adopt_restarted, "vblk", "one live chain is started again | the next one", "adoption after vq_fetch_published")                     \
    X(vblk_adopt_writes, "vblk", "all but reads are started again | reads", "adoption after vq_fetch_published")                               \
    X(vblk_adopt_done, "vblk", "all is started again | interrupts are sent", "adoption after vq_fetch_published")                              \
    X(vblk_adopt_epoch, "vblk", "the state of another epoch is reset | the epoch is stored", "adoption after a reset")                         \
    /* ---- registers and resets: NVMe ---- */                                                                                                \
    X(nvme_cc_stored, "nvme", "the value of CC is stored | it has its effect", "enable")                                                       \
    X(nvme_enable_filled, "nvme", "admin queues are described | they are valid", "enable")                                                     \
    X(nvme_enable_valid, "nvme", "admin queues are valid | the controller counts as enabled", "enable")                                        \
    X(nvme_enabled, "nvme", "the controller counts as enabled | CSTS.RDY", "enable")                                                           \
    X(nvme_reset_disabled, "nvme", "the controller counts as disabled | records are void", "controller reset")                                 \
    X(nvme_reset_records, "nvme", "records are void | queues are deleted", "controller reset")                                                 \
    X(nvme_reset_queue, "nvme", "one queue is deleted | the others", "controller reset")                                                       \
    X(nvme_reset_state, "nvme", "the state is reset | CSTS", "controller reset")                                                               \
    X(nvme_reset_registers, "nvme", "registers are reset | the epoch is stored", "function reset")                                             \
    X(nvme_shutdown_begun, "nvme", "CSTS says that shutdown occurs | disks are flushed", "shutdown")                                           \
    X(nvme_shutdown_flushed, "nvme", "disks are flushed | CSTS says that shutdown is complete", "shutdown")                                    \
    /* ---- admin effects ---- */                                                                                                             \
    X(nvme_create_cq_filled, "nvme", "the CQ is described | it is valid", "Create I/O CQ")                                                     \
    X(nvme_create_cq_done, "nvme", "the CQ is valid | the command is completed", "Create I/O CQ")                                              \
    X(nvme_create_sq_filled, "nvme", "the SQ is described | it is valid", "Create I/O SQ")                                                     \
    X(nvme_create_sq_done, "nvme", "the SQ is valid | the command is completed", "Create I/O SQ")                                              \
    X(nvme_delete_sq_begun, "nvme", "commands of the SQ are cancelled | it has drained", "Delete I/O SQ")                                      \
    X(nvme_delete_sq_drained, "nvme", "aborted commands are completed | the SQ carries the command's number", "Delete I/O SQ")                 \
    X(nvme_delete_sq_marked, "nvme", "the SQ carries the command's number | it is invalid", "Delete I/O SQ")                                   \
    X(nvme_delete_sq_done, "nvme", "the SQ is invalid | the command is completed", "Delete I/O SQ")                                            \
    X(nvme_delete_cq_marked, "nvme", "the CQ carries the command's number | it is invalid", "Delete I/O CQ")                                   \
    X(nvme_delete_cq_done, "nvme", "the CQ is invalid | the command is completed", "Delete I/O CQ")                                            \
    X(nvme_feature_stored, "nvme", "a feature is stored | the command is completed", "Set Features")                                           \
    X(nvme_timestamp_half, "nvme", "the timestamp is stored | the moment of its setting", "Set Features timestamp")                            \
    X(nvme_dbbuf_void, "nvme", "earlier shadow doorbells are void | the new ones have their values", "Doorbell Buffer Config")                 \
    X(nvme_dbbuf_filled, "nvme", "shadow doorbells have their values | they are in use", "Doorbell Buffer Config")                             \
    X(nvme_dbbuf_done, "nvme", "shadow doorbells are in use | the command is completed", "Doorbell Buffer Config")                             \
    X(nvme_event_unmarked, "nvme", "an event's completion is certain | the event counts as reported", "event")                                 \
    X(nvme_event_masked, "nvme", "the event is masked | it is no longer pending", "event")                                                     \
    X(nvme_event_listed, "nvme", "a namespace is in the list of changed ones | the event is pending", "event")                                 \
    X(nvme_event_pending, "nvme", "the event is pending | it is reported", "event")                                                            \
    X(nvme_log_unmarked, "nvme", "a log page's completion is certain | its event may come again", "log page")                                  \
    X(nvme_log_cut, "nvme", "the list of changed namespaces is cut | its event may come again", "log page")                                    \
    X(nvme_ns_filled, "nvme", "a namespace is described | it is valid", "namespace attach")                                                    \
    X(nvme_ns_stored, "nvme", "a namespace is valid | the call is answered", "namespace attach")                                               \
    X(nvme_ns_gone, "nvme", "a namespace is invalid | the host is told", "namespace detach")                                                   \
    X(nvme_ns_resized, "nvme", "the host is told | the new capacity is stored"       , "resize")                                                      \
    /* ---- virtio-blk: rings, configuration, reset ---- */                                                                                   \
    X(vq_open_reset, "vblk", "the ring's last life is void | its cursors are set", "ring start")                                               \
    X(vq_open_filled, "vblk", "the ring is described | it counts as started", "ring start")                                                    \
    X(vq_opened, "vblk", "the ring counts as started | it is served", "ring start")                                                            \
    X(vblk_ring_drained, "vblk", "a ring has drained | it is closed", "ring stop")                                                             \
    X(vblk_ring_closed, "vblk", "a ring is closed | its base is told", "ring stop")                                                            \
    X(vblk_config_half, "vblk", "one word of the configuration is stored | the others", "bdev attach")                                         \
    X(vblk_config_told, "vblk", "the configuration is stored and told | the identity", "bdev attach")                                          \
    X(vblk_identity_half, "vblk", "the new bdev is described | it is part of the identity", "bdev attach")                                     \
    X(vblk_detach_told, "vblk", "the host is told of capacity 0 | the identity", "bdev detach")                                                \
    X(vblk_resize_told, "vblk", "the new capacity is told | the identity", "resize")                                                           \
    X(vblk_writeback_stored, "vblk", "the host's choice of its cache is kept for later | in the in-flight area", "register write")             \
    X(vblk_reset_rings, "vblk", "rings are forgotten | the state is reset", "function reset")                                                  \
    X(vblk_reset_state, "vblk", "the state is reset | the epoch is stored", "function reset")                                                  \
    X(vblk_reset_epoch, "vblk", "the epoch is stored | the identity", "function reset")                                                        \
    /* ---- calls, journal, keepsakes ---- */                                                                                                 \
    X(journal_applied, "both", "the change is in memory | the line is written", "RPC")                                                         \
    X(journal_appended, "both", "the line is written | the call is answered, or carried out", "RPC")                                           \
    X(journal_syncing, "both", "changes are written | the file is synced", "journal sync")                                                     \
    X(journal_synced, "both", "the file is synced | anything else", "journal sync")                                                            \
    X(journal_temp_written, "both", "the new file is written | it is synced", "journal compaction")                                            \
    X(journal_temp_synced, "both", "the new file is synced | changes made meanwhile are added", "journal compaction")                          \
    X(journal_temp_complete, "both", "the new file is complete | it is renamed", "journal compaction")                                         \
    X(journal_renamed, "both", "the new file is in place | its directory is synced", "journal compaction")                                     \
    X(journal_set_aside, "both", "the damaged end of the journal is kept aside | the file is written anew", "damaged journal")                 \
    X(journal_stopping, "both", "all has stopped | the journal says so", "orderly stop")                                                       \
    X(journal_stopped, "both", "the journal says that all has stopped | it is synced", "orderly stop")                                         \
    X(keepsake_kept, "both", "memory is kept by snap_emu | the disk is made", "memory disk create")                                            \
    X(keepsake_dropping, "both", "the disk is gone, its deletion saved | its memory is dropped"    , "memory disk delete")                      \
    X(keepsake_dropped, "both", "the disk's memory is dropped | its end is saved", "memory disk delete")
/* clang-format on */

#define CRASH_POINT_ID(name, kind, between, situation) CRASH_POINT_##name,
enum crash_point { CRASH_POINTS(CRASH_POINT_ID) CRASH_POINT_COUNT };
#undef CRASH_POINT_ID

#endif
