/* The first process of a machine that is made of its host: mounts the host's directory as the root, and runs in it what
 * the host asks for over a virtio-serial port, stream by stream, until the host has had enough.
 *
 * It is all there is in the initramfs besides kernel modules, and needs nothing of the root it goes into.
 */
#include <asm/signal.h>
#include <linux/mount.h>
#include <linux/reboot.h>

#include "command.h"

/* What this is made of, for those who have only the program. */
__attribute__((used)) static const char made_of[] = "kvmctl init, source " SOURCE ", gcc " __VERSION__;

void power_off(void)
{
    SYS(sync);
    SYS(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF);
    for (;;)
        SYS(pause);
}

void fail(const char *doing, const char *what, long error)
{
    char number[24];

    if (channel_fd() >= 0) {
        send_error(FAILED, error, doing, what);
        /* The host ends the machine when it has read that; to power off here could be quicker than the port. */
        for (;;)
            SYS(pause);
    }
    put_text(put_number(number, -error), "\n");
    const char *const words[] = {"kvmctl: cannot ", doing, what, ": error ", number};
    for (unsigned index = 0; index < sizeof words / sizeof *words; index++)
        write_all(1, words[index], text_length(words[index]));
    power_off();
}

static void take(int type, char *data, unsigned size)
{
    const unsigned char *bytes = (const unsigned char *)data;

    switch (type) {
    case SETUP:
        set_up(data, data + size);
        return send_frame(READY, "", 0);
    case COMMAND:
        return start_command(data, data + size);
    case INPUT:
        return take_input(data, size);
    case END:
        return end_input();
    case SIGNAL:
        return size == 1 ? signal_command(bytes[0]) : (void)0;
    case SIZE:
        return size == 4 ? resize_terminal(bytes[0] | bytes[1] << 8, bytes[2] | bytes[3] << 8) : (void)0;
    default:
        fail("understand a frame of the host", "", -EBADMSG);
    }
}

/* Where the kernel begins: an initramfs has no linker and no library. */
__attribute__((noreturn)) void _start(void)
{
    unsigned long watched = 1UL << (SIGCHLD - 1) | 1UL << (SIGIO - 1);

    SYS(rt_sigprocmask, SIG_BLOCK, &watched, NULL, sizeof watched);
    int signals = SYS(signalfd4, -1, &watched, sizeof watched, O_CLOEXEC);
    memset(command.fds, -1, sizeof command.fds);
    mount_or_fail("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL);
    SYS(mkdir, "/sys", 0755);
    mount_or_fail("sysfs", "/sys", "sysfs", MS_NOSUID, NULL);
    int watch = watch_devices();
    load_modules("boot");
    check_drivers();
    open_channel(watch, signals);
    for (;;)
        turn(signals, take);
}
