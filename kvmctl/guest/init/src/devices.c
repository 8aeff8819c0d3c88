/* The port's device, and how its coming is waited for. */
#include <linux/netlink.h>
#include <sys/socket.h>

#include "init.h"

#define PORT "vport" /* and the device's number, a p, and the port's: there is but one */

int watch_devices(void)
{
    struct sockaddr_nl all = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int watch = SYS(socket, AF_NETLINK, SOCK_DGRAM | O_CLOEXEC, NETLINK_KOBJECT_UEVENT);

    SYS(bind, watch, &all, sizeof all);
    return watch;
}

void check_drivers(void)
{
    static const char *const drivers[] = {"/sys/bus/pci/drivers/virtio-pci", "/sys/bus/virtio/drivers/virtio_console"};

    for (unsigned index = 0; index < sizeof drivers / sizeof *drivers; index++) {
        long error = SYS(access, drivers[index], 0);
        if (error < 0)
            fail("find the driver ", drivers[index], error);
    }
}

int open_port(void)
{
    struct entry {
        __u64 inode, next;
        unsigned short size;
        char type, name[];
    } __attribute__((packed)) *entry;
    static char entries[4096];
    char path[sizeof "/dev/" + 256];
    int dev = SYS(open, "/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC), port = -ENOENT;
    long size;

    while (port == -ENOENT && (size = SYS(getdents64, dev, entries, sizeof entries)) > 0)
        for (char *at = entries; port == -ENOENT && at < entries + size; at += entry->size) {
            entry = (struct entry *)at;
            if (begins_with(entry->name, PORT)) {
                put_text(put_text(path, "/dev/"), entry->name);
                port = SYS(open, path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
            }
        }
    SYS(close, dev);
    return port;
}
