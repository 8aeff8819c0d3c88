/* Kernel modules, in the order that the host has found for them. */
#include "init.h"

#define LIST "/modules/list"

/* The list has lines of a group, a space and a file: what is needed for one purpose, dependencies first. */
void load_modules(const char *group)
{
    static char list[8192];
    int fd = SYS(open, LIST, O_RDONLY | O_CLOEXEC);
    long size = SYS(read, fd, list, sizeof list - 1);
    char path[256], *line = list, *end;

    SYS(close, fd);
    list[size > 0 ? size : 0] = 0;
    for (; *line; line = end) {
        char *name = line;
        for (end = line; *end && *end != '\n'; end++)
            if (*end == ' ')
                *end = 0, name = end + 1;
        if (*end)
            *end++ = 0;
        if (!is_equal(line, group))
            continue;
        put_text(put_text(path, "/modules/"), name);
        fd = SYS(open, path, O_RDONLY | O_CLOEXEC);
        long error = fd < 0 ? fd : SYS(finit_module, fd, "", 0);
        SYS(close, fd);
        if (error < 0 && error != -EEXIST)
            fail("load the kernel module ", name, error);
    }
}
