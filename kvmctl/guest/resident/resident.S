# A program for x86-64 Linux guests that waits in a frozen guest, to do in every fork of it, at once, what the guest agent
# takes long for when it has just woken up; and in other guests, which start it. It is told on a virtio port, whose device
# is its first argument, what to do:
#
#     long kind, long size, the bytes
#
#     RENEW   struct timespec now     what the clock is set to
#             struct rand_pool_info   fresh bytes, as RNDADDENTROPY takes them: bits, bytes, the bytes
#             char name[]             the host name to be given, if any
#     RUN     long flags, long count  FLAG_STREAMED, and how many words the command has
#             char words[]            each with a zero behind it
#             char input[]            its standard input, all of it
#     SIGNAL  long number             to the command that runs, and what it has started
#     HELLO   char token[8]           there is somebody new; a command that runs is somebody's who is gone, and is ended
#
# and tells in the same form
#
#     READY                           it waits: at first, and when somebody has connected again
#     READY   char token[8]           it waits, and has heard HELLO
#     STDOUT, STDERR                  what the command has written
#     EXITED  long status             as wait4 has it; its output may go on
#     END                             there is no more of it
#     FAILED  long number             of what failed when the guest was renewed, 0 for nothing; or why no command was run
#
# When the other end hangs up it ends the command, and itself: whatever goes wrong there, the agent is still to be asked.
# With a second argument, whatever it is, it stays, and waits for the next.
# The process of the next command is there before that is asked for, with all that it takes, and waits in our memory: in a
# fork, where whatever is done for the first time takes long, only the program is still to be executed.
# It needs nothing of the guest: no libraries, no interpreter. A whole ELF file, written out by hand; assembled by
# scripts/build-renew.

        .set    SYS_read, 0
        .set    SYS_write, 1
        .set    SYS_open, 2
        .set    SYS_close, 3
        .set    SYS_poll, 7
        .set    SYS_ioctl, 16
        .set    SYS_dup2, 33
        .set    SYS_clone, 56
        .set    SYS_execve, 59
        .set    SYS_exit, 60
        .set    SYS_wait4, 61
        .set    SYS_kill, 62
        .set    SYS_setsid, 112
        .set    SYS_sethostname, 170
        .set    SYS_clock_settime, 227
        .set    SYS_waitid, 247
        .set    SYS_pipe2, 293
        .set    SYS_pidfd_open, 434             # Linux 5.3; without it this is nothing for that guest
        .set    SYS_getpid, 39
        .set    O_WRONLY, 1
        .set    O_RDWR, 2
        .set    O_CLOEXEC, 0x80000
        .set    POLLIN, 1
        .set    SIGKILL, 9
        .set    SIGTERM, 15
        .set    SIGCHLD, 17
        .set    CLONE_VM, 0x100
        .set    CLONE_PIDFD, 0x1000
        .set    P_PID, 1
        .set    WEXITED, 4
        .set    WNOWAIT, 0x1000000
        .set    CLD_EXITED, 1
        .set    CLD_DUMPED, 3
        .set    CORE, 0x80                      # of a status: it left a core
        .set    ENOENT, 2
        .set    EACCES, 13
        .set    RNDADDENTROPY, 0x40085203       # linux/random.h: _IOW('R', 0x03, int[2])
        .set    RNDRESEEDCRNG, 0x5207           # linux/random.h: _IO('R', 0x07)

        .set    RENEW, 1                        # kinds of messages; Kind in guest/messages.py
        .set    RUN, 2
        .set    SIGNAL, 3
        .set    HELLO, 4
        .set    READY, 16
        .set    STDOUT, 17
        .set    STDERR, 18
        .set    EXITED, 19
        .set    END, 20
        .set    FAILED, 21
        .set    FLAG_STREAMED, 1

        .set    SEED, 64                        # bytes; SEED_BYTES in guest/renewal.py
        .set    NAME, 16 + 8 + SEED             # where the name begins
        .set    MESSAGE, 32768                  # bytes of a message, at most; MESSAGE_MAX in guest/messages.py
        .set    GRACE, 1000                     # milliseconds from SIGTERM to SIGKILL
        .set    LINGER, 60000                   # milliseconds from the end of all that to ours
        .set    LEFT, 64                        # pieces of output that are passed on of a command that has ended
        .set    PATHS, 4096
        .set    STACK, 1024                     # bytes, for the process of a command
        .set    BASE, 0x400000

        .code64
        .text
header: .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0 # 64 bits, little endian
        .fill   8, 1, 0
        .word   2, 62                           # ET_EXEC, EM_X86_64
        .long   1
        .quad   BASE + start - header
        .quad   segment - header, 0
        .long   0
        .word   64, 56, 1, 0, 0, 0
segment:.long   1, 7                            # PT_LOAD, readable, writable, executable
        .quad   0, BASE, BASE
        .quad   end - header, last - header
        .quad   0x1000

# Kept all along: %rbx is `data`, %r12 the port, %r15 the environment.
start:  lea     data(%rip), %rbx
        mov     (%rsp), %rax
        lea     16(%rsp,%rax,8), %r15
        sub     $2, %eax
        cmp     $1, %eax
        ja      quit
        mov     %eax, stays(%rbx)
        mov     %rsp, top(%rbx)
        mov     $SYS_getpid, %eax
        syscall
        mov     %eax, %edi
        call    watch                           # can it be told when a command has ended?
        test    %eax, %eax
        js      quit
        mov     %eax, %edi
        call    close
        mov     16(%rsp), %rdi
        mov     $O_RDWR | O_CLOEXEC, %esi
        mov     $SYS_open, %eax
        syscall
        mov     %eax, %r12d
        test    %eax, %eax
        js      quit
        lea     device(%rip), %rdi              # now: to find a file is a lot of work for a guest that wakes up
        mov     $O_WRONLY | O_CLOEXEC, %esi
        mov     $SYS_open, %eax
        syscall
        mov     %eax, seeder(%rbx)              # an error is told by who uses it
        call    prepare
ready:  movl    $1, is_waiting(%rbx)
        mov     $READY, %esi
        xor     %edx, %edx
        call    tell                            # the kernel lets nobody write before the other end is connected
        movl    $0, is_waiting(%rbx)

next:   lea     request(%rbx), %rbp
        call    hear
        mov     request(%rbx), %eax
        cmp     $RENEW, %eax
        je      renew
        cmp     $RUN, %eax
        je      run
        cmp     $HELLO, %eax
        jne     next                            # a signal that comes too late
hello:  mov     request + 8(%rbx), %rax
        mov     %rax, answer + 8(%rbx)
        mov     $READY, %esi
        mov     $8, %edx
        call    tell
        jmp     next

quit:   mov     $1, %edi
        mov     $SYS_exit, %eax
        syscall

# -- a fork is renewed -----------------------------------------------------------------------------------------------

renew:  mov     $1, %r13d
        cmpl    $NAME, request + 4(%rbx)
        jb      failed

        inc     %r13d                           # 2: the random numbers
        mov     seeder(%rbx), %edi
        mov     $RNDADDENTROPY, %esi
        lea     request + 8 + 16(%rbx), %rdx
        mov     $SYS_ioctl, %eax
        syscall
        test    %rax, %rax
        js      failed
        mov     seeder(%rbx), %edi
        mov     $RNDRESEEDCRNG, %esi
        xor     %edx, %edx
        mov     $SYS_ioctl, %eax
        syscall
        test    %rax, %rax
        js      failed

        inc     %r13d                           # 3: the clock
        xor     %edi, %edi                      # CLOCK_REALTIME
        lea     request + 8(%rbx), %rsi
        mov     $SYS_clock_settime, %eax
        syscall
        test    %rax, %rax
        js      failed

        inc     %r13d                           # 4: the name
        mov     request + 4(%rbx), %esi
        sub     $NAME, %esi
        jz      renewed
        lea     request + 8 + NAME(%rbx), %rdi
        mov     $SYS_sethostname, %eax
        syscall
        test    %rax, %rax
        js      failed
renewed:xor     %r13d, %r13d
failed: mov     %r13d, answer + 8(%rbx)         # also the way to say that nothing did
        mov     $FAILED, %esi
        mov     $4, %edx
        call    tell
        jmp     next

# -- a command is run ------------------------------------------------------------------------------------------------

# The words are found: their addresses go into `words`, and %r13 to the input behind them, of %r14 bytes.
run:    lea     request + 8 + 8(%rbx), %rsi
        lea     words(%rbx), %rdi
        mov     request + 8 + 4(%rbx), %ecx
word:   mov     %rsi, (%rdi)
        add     $8, %rdi
skip:   lodsb
        test    %al, %al
        jnz     skip
        dec     %ecx
        jnz     word
        movq    $0, (%rdi)
        mov     %rsi, %r13
        mov     request + 4(%rbx), %r14d
        lea     request + 8(%rbx,%r14), %r14
        sub     %rsi, %r14

        movl    $1, is_called(%rbx)
        mov     pipes + 4(%rbx), %edi
        test    %r14, %r14
        jz      given
        mov     %r13, %rsi                      # its whole input fits into the pipe
        mov     %r14, %rdx
        mov     $SYS_write, %eax
        syscall
given:  call    close                           # that wakes it
        mov     pipes(%rbx), %edi               # not before: we don't end for want of a reader
        call    close

        mov     %r12d, polls(%rbx)
        mov     pipes + 8(%rbx), %eax
        mov     %eax, polls + 8(%rbx)
        mov     pipes + 16(%rbx), %eax
        mov     %eax, polls + 16(%rbx)
        movl    $POLLIN, polls + 4(%rbx)
        movl    $POLLIN, polls + 12(%rbx)
        movl    $POLLIN, polls + 20(%rbx)
        movl    $POLLIN, polls + 28(%rbx)
        mov     request + 8(%rbx), %r14d        # its flags
        mov     $LEFT, %r13d

# Nobody waits for what others write where its command has ended and its output was asked for as it comes.
follow: mov     $-1, %edx
        cmpl    $-1, polls + 24(%rbx)
        jne     wait
        mov     polls + 8(%rbx), %eax
        and     polls + 16(%rbx), %eax
        cmp     $-1, %eax                       # both are closed
        je      over
        test    $FLAG_STREAMED, %r14d
        jz      wait
        dec     %r13d
        jz      over
        xor     %edx, %edx
wait:   lea     polls(%rbx), %rdi
        mov     $4, %esi
        mov     $SYS_poll, %eax
        syscall
        test    %eax, %eax
        js      follow
        jz      over

        cmpw    $0, polls + 6(%rbx)
        je      outputs
        lea     heard(%rbx), %rbp               # the words may not have been read yet
        call    hear
        cmpl    $HELLO, heard(%rbx)
        je      takeover
        cmpl    $SIGNAL, heard(%rbx)
        jne     outputs
        mov     heard + 8(%rbx), %esi
        call    send

outputs:lea     polls + 8(%rbx), %rbp
        mov     $STDOUT, %r8d
        call    pass
        lea     polls + 16(%rbx), %rbp
        mov     $STDERR, %r8d
        call    pass

        cmpw    $0, polls + 30(%rbx)
        je      follow
        mov     polls + 24(%rbx), %edi
        call    close
        movl    $-1, polls + 24(%rbx)
        movl    $0, polls + 28(%rbx)
        movl    $POLLIN, polls + 28(%rbx)
        cmpl    $0, errno(%rbx)
        jne     unborn
        call    look
        mov     polls + 8(%rbx), %eax
        and     polls + 16(%rbx), %eax
        cmp     $-1, %eax
        je      ended
        mov     $EXITED, %esi
        mov     $4, %edx
        call    tell
        jmp     follow

# All of it has ended, which is told at once. To clean up has time until it is.
ended:  movl    $EXITED, answer(%rbx)
        movl    $4, answer + 4(%rbx)
        movl    $END, answer + 12(%rbx)
        movl    $0, answer + 16(%rbx)
        mov     $8 + 4 + 8, %edx
        call    put
        jmp     clean
unborn: mov     errno(%rbx), %eax
        mov     %eax, answer + 8(%rbx)
        mov     $FAILED, %esi
        mov     $4, %edx
        call    tell
        jmp     clean
over:   mov     $END, %esi
        xor     %edx, %edx
        call    tell

clean:  mov     polls + 8(%rbx), %edi
        call    close
        mov     polls + 16(%rbx), %edi
        call    close
        call    collect
        call    prepare                         # what it has left running is not ours to end
        jmp     next

# Pass on what has come of the output that %rbp polls, as %r8.
pass:   cmpw    $0, 6(%rbp)
        je      passed
        mov     (%rbp), %edi
        lea     answer + 8(%rbx), %rsi
        mov     $MESSAGE, %edx
        xor     %eax, %eax                      # SYS_read
        syscall
        test    %rax, %rax
        jle     closed
        mov     %r8d, %esi
        mov     %eax, %edx
        jmp     tell
closed: mov     (%rbp), %edi
        call    close
        movl    $-1, (%rbp)
        movw    $0, 6(%rbp)
passed: ret

# How the command ended goes to where it is told from, as wait4 would have it. It is not collected yet: the kernel's work.
look:   mov     $P_PID, %edi
        mov     pid(%rbx), %esi
        lea     path(%rbx), %rdx                # a siginfo_t
        mov     $WEXITED | WNOWAIT, %r10d
        xor     %r8d, %r8d
        mov     $SYS_waitid, %eax
        syscall
        mov     path + 24(%rbx), %eax           # si_status
        mov     path + 8(%rbx), %ecx            # si_code
        cmp     $CLD_EXITED, %ecx
        jne     killed
        shl     $8, %eax
killed: cmp     $CLD_DUMPED, %ecx
        jne     looked
        or      $CORE, %eax
looked: mov     %eax, answer + 8(%rbx)
        ret

collect:mov     pid(%rbx), %edi
        xor     %esi, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        mov     $SYS_wait4, %eax
        syscall
        ret

# Signal %esi goes to the command, and to all of its session; to its process where that has none yet.
send:   mov     pid(%rbx), %edi
        neg     %edi
        mov     $SYS_kill, %eax
        syscall
        test    %eax, %eax
        jns     sent
        mov     pid(%rbx), %edi
        mov     $SYS_kill, %eax
        syscall
sent:   ret

# A descriptor that tells when process %edi has ended.
watch:  xor     %esi, %esi
        mov     $SYS_pidfd_open, %eax
        syscall
        ret

close:  mov     $SYS_close, %eax
        syscall
        ret

# -- the command itself, in our memory until it is another program ---------------------------------------------------

# The process of the next command, as `pid`, with our ends of its pipes in `pipes` and what tells of its end in `polls`.
# Where that can't be had the agent is to be asked instead.
prepare:movl    $0, is_called(%rbx)
        movl    $0, errno(%rbx)
        lea     pipes(%rbx), %rbp               # three: for its input, its output, its errors
        mov     $3, %r9d
pipe:   mov     %rbp, %rdi
        mov     $O_CLOEXEC, %esi
        mov     $SYS_pipe2, %eax
        syscall
        test    %eax, %eax
        js      quit
        add     $8, %rbp
        dec     %r9d
        jnz     pipe
        mov     $CLONE_VM | CLONE_PIDFD | SIGCHLD, %edi
        lea     stack(%rbx), %rsi
        lea     polls + 24(%rbx), %rdx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        mov     $SYS_clone, %eax
        syscall
        test    %eax, %eax
        js      quit
        jz      child
        mov     %eax, pid(%rbx)
        mov     pipes + 12(%rbx), %edi
        call    close
        mov     pipes + 20(%rbx), %edi
        jmp     close

child:  mov     $SYS_setsid, %eax
        syscall
        xor     %r13d, %r13d
        lea     pipes(%rbx), %rbp
        mov     (%rbp), %edi
        call    become
        mov     12(%rbp), %edi
        call    become
        mov     20(%rbp), %edi
        call    become
        mov     4(%rbp), %edi                   # so that it ends with its last writer: our end is its end
        call    close
        mov     %r12d, %edi                     # the port is closed when we close it
        call    close
        movl    $0, wakes(%rbx)
        movl    $POLLIN, wakes + 4(%rbx)
asleep: lea     wakes(%rbx), %rdi
        mov     $1, %esi
        mov     $-1, %edx
        mov     $SYS_poll, %eax
        syscall
        cmpl    $0, is_called(%rbx)
        jne     called
        test    %eax, %eax
        js      asleep
        xor     %edi, %edi
        mov     $SYS_exit, %eax
        syscall

called: mov     words(%rbx), %rsi
        mov     $ENOENT, %r14d
slash:  lodsb
        cmp     $'/', %al
        je      direct
        test    %al, %al
        jnz     slash

        mov     %r15, %rbp                      # PATH is looked for
seek:   mov     (%rbp), %rsi
        add     $8, %rbp
        test    %rsi, %rsi
        jz      usual
        cmpl    $0x48544150, (%rsi)             # PATH
        jne     seek
        cmpb    $'=', 4(%rsi)
        jne     seek
        add     $5, %rsi
        jmp     place
usual:  lea     paths(%rip), %rsi

place:  lea     path(%rbx), %rdi                # each of its directories, with the first word behind it
        lea     PATHS(%rdi), %rcx
letter: lodsb
        test    %al, %al
        jz      named
        cmp     $':', %al
        je      named
        cmp     %rcx, %rdi
        jae     missing
        stosb
        jmp     letter
named:  mov     %rsi, %rbp                      # behind the colon, or the zero
        mov     %al, %r13b
        movb    $'/', %al
        stosb
        mov     words(%rbx), %rsi
append: lodsb
        cmp     %rcx, %rdi
        jae     missing
        stosb
        test    %al, %al
        jnz     append
        lea     path(%rbx), %rdi
        call    exec
        cmp     $-ENOENT, %eax
        je      other
        neg     %eax
        mov     %eax, %r14d
other:  mov     %rbp, %rsi
        test    %r13b, %r13b
        jnz     place
        jmp     missing

direct: mov     words(%rbx), %rdi
        call    exec
        neg     %eax
        mov     %eax, %r14d
missing:mov     %r14d, errno(%rbx)
        mov     $127, %edi
        mov     $SYS_exit, %eax
        syscall

exec:   lea     words(%rbx), %rsi
        mov     %r15, %rdx
        mov     $SYS_execve, %eax
        syscall
        ret

# Descriptor %edi is the next of the three that every program has.
become: mov     %r13d, %esi
        inc     %r13d
        mov     $SYS_dup2, %eax
        syscall
        ret

# -- the port --------------------------------------------------------------------------------------------------------

# A message comes to %rbp. Nobody is there any more: the command is ended, and so are we unless we stay.
hear:   mov     %rbp, %rsi
        mov     $8, %edx
        call    fill
        mov     4(%rbp), %edx
        cmp     $MESSAGE, %edx
        ja      goodbye
fill:   test    %edx, %edx
        jz      filled
        mov     %r12d, %edi
        xor     %eax, %eax                      # SYS_read
        syscall
        test    %rax, %rax
        jle     goodbye
        add     %rax, %rsi
        sub     %eax, %edx
        jmp     fill
filled: ret

# What is in `answer` goes out as %esi, of %edx bytes.
tell:   mov     %esi, answer(%rbx)
        mov     %edx, answer + 4(%rbx)
        add     $8, %edx
put:    lea     answer(%rbx), %rsi
flush:  mov     %r12d, %edi
        mov     $SYS_write, %eax
        syscall
        test    %rax, %rax
        jle     goodbye
        add     %rax, %rsi
        sub     %eax, %edx
        jnz     flush
        ret

# Who was connected is gone, which was not to be seen: somebody else was connected at once.
takeover:
        mov     heard + 8(%rbx), %rax
        mov     %rax, request + 8(%rbx)
        movl    $1, is_new(%rbx)
goodbye:mov     top(%rbx), %rsp
        cmpl    $0, is_called(%rbx)             # one that was not ends when we do
        je      alone
        mov     $SIGTERM, %esi
        call    send
        lea     polls + 24(%rbx), %rdi
        mov     $1, %esi
        mov     $GRACE, %edx
        mov     $SYS_poll, %eax
        syscall
        mov     $SIGKILL, %esi
        call    send
        mov     polls + 8(%rbx), %edi
        call    close
        mov     polls + 16(%rbx), %edi
        call    close
        mov     polls + 24(%rbx), %edi
        call    close
        call    collect
        mov     stays(%rbx), %eax
        or      is_new(%rbx), %eax
        jz      linger
        call    prepare
        cmpl    $0, is_new(%rbx)
        movl    $0, is_new(%rbx)
        jne     hello
alone:  cmpl    $0, stays(%rbx)
        je      linger
        cmpl    $0, is_waiting(%rbx)
        je      ready                           # or there is no port any more

# The agent wants to know of our end, and a guest that has just woken up has other things to do.
linger: mov     %r12d, %edi
        call    close
        xor     %esi, %esi
        mov     $LINGER, %edx
        mov     $SYS_poll, %eax                 # of nothing
        syscall
        jmp     quit

device: .asciz  "/dev/urandom"
paths:  .asciz  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        .balign 16
end:
        .set    data, end                       # the segment is longer in memory than in the file
        .set    polls, 0                        # four struct pollfd: the port, two outputs, the end of the command
        .set    wakes, 32                       # the one of a process that is not called yet
        .set    pipes, 40                       # three pairs of descriptors
        .set    pid, 64
        .set    errno, 68
        .set    is_called, 72
        .set    seeder, 76
        .set    stays, 80
        .set    is_waiting, 84
        .set    is_new, 88
        .set    top, 96                         # of our stack
        .set    stack, 104 + STACK              # where it begins: it grows downwards
        .set    path, stack
        .set    request, path + PATHS + 512
        .set    heard, request + 8 + MESSAGE + 8
        .set    answer, heard + 8 + MESSAGE + 8
        .set    words, answer + 8 + MESSAGE
        .set    last, end + words + 8 * (MESSAGE + 1)
