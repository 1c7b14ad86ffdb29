/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_host: the hypervisor's hand tool. Lists the functions of snap_emu and prints how to give one
 * to a VM. It looks on over the link as an observer: it leases nothing. */
#include "base/fd.h"
#include "base/util.h"
#include "link/message.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_MS = 5000 };

struct table {
    struct link_function_info *all;
    unsigned count;
};

struct call {
    const char *run_dir;
    char default_run_dir[512];
    int argc;
    char **argv;
};

static void usage(FILE *out)
{
    fprintf(out,
            "snap_host - lists the functions of snap_emu and tells how to give one to a VM\n"
            "\n"
            "  snap_host [--run-dir DIR] list [--all]\n"
            "      functions with state, PCI address, holder and socket; --all: those that "
            "have never had a\n"
            "      controller as well as VFs (default: PFs and whatever is in use)\n"
            "  snap_host [--run-dir DIR] qemu-option VUID|BDF\n"
            "      the options for QEMU: NVMe functions need 10.1 or newer, virtio-blk ones 7.2; "
            "and the memory\n"
            "      option both need\n"
            "\n"
            "      --run-dir DIR    of snap_emu (default /run/opensnap, or "
            "$XDG_RUNTIME_DIR/opensnap when not root)\n"
            "      --version, --help\n");
}

/* ---- the link ---- */

static int receive(int fd, struct link_msg *msg, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int fds[LINK_MAX_FDS];
    unsigned nfds;
    ssize_t n;

    if (poll(&p, 1, ANSWER_MS) != 1)
        return err_set(err, -ETIMEDOUT, "snap_emu does not answer");
    n = fd_recv(fd, msg, sizeof(*msg), fds, LINK_MAX_FDS, &nfds);
    for (unsigned i = 0; i < nfds; i++)
        close(fds[i]);
    if (n != sizeof(*msg))
        return err_set(err, -EPROTO, "snap_emu ended the connection");
    return 0;
}

static int put(struct table *t, const struct link_msg *msg, struct err *err)
{
    const struct link_function_info *info = &msg->fn.info;

    if (msg->function >= t->count)
        return err_set(err, -EBADMSG, "snap_emu told of function %u of %u", msg->function,
                       t->count);
    t->all[msg->function] = *info;
    t->all[msg->function].vuid[sizeof(info->vuid) - 1] = '\0';
    t->all[msg->function].ctrl_id[sizeof(info->ctrl_id) - 1] = '\0';
    t->all[msg->function].pci_bdf[sizeof(info->pci_bdf) - 1] = '\0';
    t->all[msg->function].state[sizeof(info->state) - 1] = '\0';
    return 0;
}

static int hello(int fd, struct err *err)
{
    struct link_msg msg = {.type = LINK_HELLO, .cookie = 1};
    ssize_t n;

    msg.hello.version = LINK_VERSION;
    msg.hello.pid = (uint32_t)getpid();
    snprintf(msg.hello.name, sizeof(msg.hello.name), "snap_host");
    n = fd_send(fd, &msg, sizeof(msg), NULL, 0);
    return n < 0 ? err_set(err, (int)n, "snap_emu: %s", strerror((int)-n)) : 0;
}

static int read_table(const char *run_dir, struct table *t, struct err *err)
{
    struct link_msg msg;
    char path[600];
    int fd, rc;

    snprintf(path, sizeof(path), "%s/emu.sock", run_dir);
    fd = fd_unix_connect(path, SOCK_SEQPACKET, err);
    if (fd < 0)
        return fd;
    rc = hello(fd, err);
    while (rc == 0 && (rc = receive(fd, &msg, err)) == 0 && msg.type != LINK_READY) {
        if (msg.type == LINK_WELCOME && msg.rc < 0) {
            msg.text[sizeof(msg.text) - 1] = '\0';
            rc = err_set(err, msg.rc, "snap_emu refuses: %s", msg.text);
        } else if (msg.type == LINK_WELCOME && !t->all) {
            t->count = MIN(msg.welcome.functions, 65536U);
            t->all = calloc(t->count + 1, sizeof(*t->all));
            rc = t->all ? 0 : err_set(err, -ENOMEM, "no memory");
        } else if (msg.type == LINK_FUNCTION) {
            rc = put(t, &msg, err);
        }
    }
    close(fd);
    return rc;
}

/* ---- commands ---- */

static void socket_path(const struct call *c, const struct link_function_info *f, char *out,
                        size_t size)
{
    snprintf(out, size, "%s/functions/%s/%s", c->run_dir, f->vuid,
             f->kind == FUNCTION_NVME ? "cntrl" : "vhost.sock");
}

static int list(struct call *c, struct err *err)
{
    bool all = c->argc == 1 && !strcmp(c->argv[0], "--all");
    struct table t = {0};
    int rc;

    if (c->argc > 0 && !all)
        return err_set(err, -EINVAL, "list: '%s' is not understood; see --help", c->argv[0]);
    rc = read_table(c->run_dir, &t, err);
    if (rc == 0)
        printf("%-26s %-4s %-3s %-3s %-8s %-10s %-5s %-16s %-7s %s\n", "VUID", "TYPE", "PF", "VF",
               "BDF", "STATE", "HOST", "CONTROLLER", "PID", "SOCKET");
    for (unsigned i = 0; rc == 0 && i < t.count; i++) {
        const struct link_function_info *f = &t.all[i];
        char vf[16] = "-", pid[16] = "-", path[700];

        if (!all && f->vf_index >= 0 && !strcmp(f->state, "new"))
            continue;
        if (f->vf_index >= 0)
            snprintf(vf, sizeof(vf), "%d", f->vf_index);
        if (f->holder_pid)
            snprintf(pid, sizeof(pid), "%u", f->holder_pid);
        socket_path(c, f, path, sizeof(path));
        printf("%-26s %-4s %-3d %-3s %-8s %-10s %-5s %-16s %-7s %s\n", f->vuid,
               f->kind == FUNCTION_NVME ? "NVME" : "VBLK", f->pf_index, vf, f->pci_bdf, f->state,
               f->host_connected ? "yes" : "no", f->ctrl_id[0] ? f->ctrl_id : "-", pid, path);
    }
    free(t.all);
    return rc;
}

static void print_vfio_user(const char *path)
{
    printf("-device "
           "'{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"%s\"}}'\n",
           path);
}

static void print_vhost_user(const struct link_function_info *f, const char *path)
{
    printf("-chardev socket,id=chr-%s,path=%s,reconnect-ms=1000 "
           "-device vhost-user-blk-pci,chardev=chr-%s\n",
           f->vuid, path, f->vuid);
    fprintf(stderr,
            "A QEMU that does not know reconnect-ms (7.2, for example) takes whole seconds: "
            "reconnect=1.\n"
            "It makes a queue for each CPU: with more CPUs than the controller has queues, "
            "add num-queues=N.\n");
}

static int qemu_option(struct call *c, struct err *err)
{
    const struct link_function_info *f = NULL;
    struct table t = {0};
    char path[700];
    int rc;

    if (c->argc != 1)
        return err_set(err, -EINVAL,
                       "qemu-option: give one vuid or PCI address, as 'snap_host list' shows it");
    rc = read_table(c->run_dir, &t, err);
    for (unsigned i = 0; rc == 0 && i < t.count; i++)
        if (!strcmp(t.all[i].vuid, c->argv[0]) || !strcmp(t.all[i].pci_bdf, c->argv[0]))
            f = &t.all[i];
    if (rc == 0 && !f)
        rc = err_set(err, -ENODEV, "there is no function '%s'; see 'snap_host list --all'",
                     c->argv[0]);
    if (rc == 0) {
        socket_path(c, f, path, sizeof(path));
        if (f->kind == FUNCTION_NVME)
            print_vfio_user(path);
        else
            print_vhost_user(f, path);
        fprintf(stderr, "The VM's memory must be shared, for example with 1 GiB:\n"
                        "  -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -machine "
                        "q35,memory-backend=mem\n");
        if (!strcmp(f->state, "new"))
            fprintf(stderr,
                    "The function has no controller yet: QEMU will be refused until "
                    "%s.\n",
                    f->kind == FUNCTION_NVME ? "nvme_controller_create"
                                             : "virtio_blk_controller_create");
    }
    free(t.all);
    return rc;
}

static const struct {
    const char *name;
    int (*run)(struct call *c, struct err *err);
} commands[] = {
    {"list", list},
    {"qemu-option", qemu_option},
};

static int run(struct call *c, const char *name, struct err *err)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");

    if (!c->run_dir && geteuid() == 0)
        c->run_dir = "/run/opensnap";
    if (!c->run_dir) {
        if (!xdg || !*xdg)
            return err_set(err, -EINVAL, "XDG_RUNTIME_DIR is not set: give --run-dir");
        snprintf(c->default_run_dir, sizeof(c->default_run_dir), "%s/opensnap", xdg);
        c->run_dir = c->default_run_dir;
    }
    if (strlen(c->run_dir) > 500)
        return err_set(err, -ENAMETOOLONG, "--run-dir '%s' is too long", c->run_dir);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (!strcmp(commands[i].name, name))
            return commands[i].run(c, err);
    return err_set(err, -EINVAL, "there is no command '%s'; see --help", name);
}

int main(int argc, char **argv)
{
    struct call c = {0};
    struct err err = {0};
    const char *name = NULL;
    int kept = 0;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            usage(stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--version")) {
            printf("snap_host %s\n", OPENSNAP_VERSION);
            return 0;
        }
        if (!strcmp(argv[i], "--run-dir") && i + 1 < argc)
            c.run_dir = argv[++i];
        else if (!name)
            name = argv[i];
        else
            argv[kept++] = argv[i]; /* the command's own; never ahead of i */
    }
    c.argc = kept;
    c.argv = argv;
    if (!name) {
        usage(stderr);
        return 2;
    }
    if (run(&c, name, &err) < 0) {
        fprintf(stderr, "snap_host: %s\n", err.msg);
        return 1;
    }
    return 0;
}
