/* The root file system: a shared directory of the host, with what every Linux has mounted in it. */
#include <linux/mount.h>
#include <linux/stat.h>

#include "init.h"

#define LOWER "/lower" /* the shared directory, where it is only a layer */
#define ROOT "/root"
#define COVER "/cover"

static const char *const needed[] = {"/proc", "/sys", "/dev", "/run", "/tmp"};

void mount_or_fail(const char *what, const char *where, const char *type, unsigned long flags, const char *options)
{
    long error = SYS(mount, what, where, type, flags, options);

    if (error < 0)
        fail("mount ", where, error);
}

void make_directories(const char *path)
{
    char made[4096], *to = made;

    for (; *path && to < made + sizeof made - 1; path++) {
        if (*path == '/' && to != made) {
            *to = 0;
            SYS(mkdir, made, 0755);
        }
        *to++ = *path;
    }
    *to = 0;
    SYS(mkdir, made, 0755);
}

static const char *in_root(const char *path)
{
    static char whole[4096 + sizeof ROOT];

    put_text(put_text(whole, ROOT), path);
    return whole;
}

/* A layer in memory over the root: for what is written, or for the mount points that a bare tree has not. */
static void cover_root(const char *mode)
{
    load_modules("overlay");
    SYS(mkdir, LOWER, 0755);
    SYS(mkdir, COVER, 0755);
    mount_or_fail(ROOT, LOWER, NULL, MS_MOVE, NULL);
    mount_or_fail("overlay", COVER, "tmpfs", 0, "mode=755,size=100%");
    SYS(mkdir, COVER "/upper", 0755);
    SYS(mkdir, COVER "/work", 0755);
    mount_or_fail("overlay", ROOT, "overlay", 0, "lowerdir=" LOWER ",upperdir=" COVER "/upper,workdir=" COVER "/work");
    for (unsigned index = 0; index < sizeof needed / sizeof *needed; index++)
        SYS(mkdir, in_root(needed[index]), 0755);
    if (!is_equal(mode, "writable"))
        mount_or_fail("overlay", ROOT, NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

/* How the host shares directories: the file system's type, which is also its modules' group, and its options. */
struct sharing {
    const char *type, *options;
};

static void mount_root(const char *tag, const struct sharing *sharing, const char *layer)
{
    SYS(mkdir, ROOT, 0755);
    load_modules(sharing->type);
    mount_or_fail(tag, ROOT, sharing->type, MS_RDONLY, sharing->options);
    if (layer)
        cover_root(layer);
}

/* What a kernel may be without, and a root may have no place for. */
static void mount_extras(void)
{
    SYS(mount, "cgroup2", in_root("/sys/fs/cgroup"), "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    SYS(mount, "debugfs", in_root("/sys/kernel/debug"), "debugfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    SYS(mount, "tracefs", in_root("/sys/kernel/tracing"), "tracefs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    SYS(mount, "bpf", in_root("/sys/fs/bpf"), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700");
}

static void mount_devices(void)
{
    mount_or_fail("devtmpfs", in_root("/dev"), "devtmpfs", MS_NOSUID, NULL);
    SYS(mkdir, in_root("/dev/pts"), 0755);
    SYS(mkdir, in_root("/dev/shm"), 0755);
    mount_or_fail("devpts", in_root("/dev/pts"), "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
    mount_or_fail("shm", in_root("/dev/shm"), "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    SYS(symlink, "/proc/self/fd", in_root("/dev/fd"));
    SYS(symlink, "/proc/self/fd/0", in_root("/dev/stdin"));
    SYS(symlink, "/proc/self/fd/1", in_root("/dev/stdout"));
    SYS(symlink, "/proc/self/fd/2", in_root("/dev/stderr"));
}

/* A fresh file system in memory over `place`, in which `kept` (a path beneath it, or none) is still what it was. */
static void mount_fresh(const char *place, const char *options, const char *kept)
{
    char source[64];
    int fd = kept ? SYS(open, in_root(kept), O_PATH | O_DIRECTORY | O_CLOEXEC) : -ENOENT;

    mount_or_fail("tmpfs", in_root(place), "tmpfs", MS_NOSUID | MS_NODEV, options);
    if (fd < 0)
        return;
    put_number(put_text(source, ROOT "/proc/self/fd/"), fd);
    make_directories(in_root(kept));
    mount_or_fail(source, in_root(kept), NULL, MS_BIND, NULL);
    SYS(close, fd);
}

static const char *kept_in(const char *place, const char *kept)
{
    size_t length = text_length(place);

    return kept && begins_with(kept, place) && kept[length] == '/' ? kept : NULL;
}

static void mount_system(const char *kept)
{
    mount_or_fail("proc", in_root("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_or_fail("sysfs", in_root("/sys"), "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_devices();
    mount_fresh("/run", "mode=755", kept_in("/run", kept));
    mount_fresh("/tmp", "mode=1777", kept_in("/tmp", kept));
    SYS(mkdir, in_root("/run/lock"), 01777);
    SYS(chmod, in_root("/run/lock"), 01777);
    mount_extras();
}

/* A writable directory: `place` is TAG:PATH. */
static void mount_share(char *place, const struct sharing *sharing)
{
    char *path = place;

    while (*path != ':')
        path++;
    *path++ = 0;
    if (kept_in("/tmp", path) || kept_in("/run", path))
        make_directories(in_root(path));
    mount_or_fail(place, in_root(path), sharing->type, MS_NOSUID | MS_NODEV, sharing->options);
}

static void enter_root(void)
{
    SYS(chdir, ROOT);
    mount_or_fail(".", "/", NULL, MS_MOVE, NULL);
    SYS(chroot, ".");
    SYS(chdir, "/");
}

void set_up(char *settings, char *end)
{
    char *next = settings, *key, *value, *kept = NULL, *layer = NULL, *network = NULL, *resolver = NULL;
    struct sharing sharing = {"virtiofs", NULL};
    int is_there = 0;

    while (next_setting(&next, end, &key, &value)) {
        if (is_equal(key, "layer"))
            layer = value;
        else if (is_equal(key, "keep"))
            kept = value;
        else if (is_equal(key, "network"))
            load_modules(key), network = value; /* from here: they are not in the root */
        else if (is_equal(key, "resolver"))
            resolver = value;
        else if (is_equal(key, "hostname"))
            SYS(sethostname, value, text_length(value));
        else if (is_equal(key, "type"))
            sharing.type = value;
        else if (is_equal(key, "options"))
            sharing.options = value;
        else if (is_equal(key, "root"))
            mount_root(value, &sharing, layer), mount_system(kept), is_there = 1;
        else if (is_equal(key, "share") && is_there)
            mount_share(value, &sharing);
        else
            fail("understand the host's setting ", key, -EBADMSG);
    }
    enter_root();
    raise_loopback();
    if (network)
        raise_network(network);
    if (resolver)
        cover_resolver(resolver);
}
