# The tiny guest: a complete operating system of 4.6 KiB for testing what surrounds an operating system.
#
# One file, three ways to boot, real mode only (so it runs under TCG, under KVM, and under a KVM that runs nothing else):
#
#   * a BIOS boot sector and its payload, for any disk SeaBIOS can read (IDE, AHCI, virtio-blk, virtio-scsi, NVMe, USB);
#     the disk must be larger than one 16 x 63 cylinder (about 512 KiB) or SeaBIOS refuses it;
#   * a Linux/x86 boot protocol 2.06 image for -kernel, with -append and -initrd (Documentation/arch/x86/boot.rst);
#   * a network boot program: -netdev user,tftp=DIR,bootfile=tiny.bin.
#
# It prints one line of facts and READY on COM1, then waits: for characters on COM1 (see `commands`), for the power
# button, and for the guest agent's protocol on COM2 (agent.inc). Words on the kernel command line (see `words`)
# make it do the same things unasked. kvmctl/guest/tiny/__init__.py is the reader's description of all of it.
#
# Memory, all within one 64 KiB segment at SEGMENT:  0 the image  0x4000 buffers  0xfff0 the stack, downwards.
# Routines take and give what their comment says, and may clobber EAX, EBX, ECX, EDX, SI and DI; DS = ES = SS = CS.
#
# Assemble with scripts/build-tiny.

.intel_syntax noprefix
.code16

.set SEGMENT,      0x1000       # where QEMU's and SeaBIOS's boot protocol loaders put the setup code, too
.set SECTORS,      8            # of the image without the (never executed) protected-mode part
.set COUNTER_LBA,  63           # the sector of the boot counter: the last of the first track, which no loader uses
.set COM1,         0x3f8
.set COM2,         0x2f8
.set PVPANIC,      0x505        # docs/specs/pvpanic.txt
.set DEBUG_EXIT,   0x501        # isa-debug-exit: QEMU exits with status (value << 1) | 1
.set EXIT_DEFAULT, 16

.set sector,       0x4000       # 512 bytes: the counter's sector, and an E820 entry before that
.set agent_line,   0x4200       # the request being received
.set AGENT_LINE,   1000         # its longest; what is longer is cut
.set cmdline,      0x4800       # the kernel command line, zero-terminated
.set CMDLINE,      1023

# ---------------------------------------------------------------- the boot sector, at 0000:7c00
.globl _start
_start:
    cli
    ljmp 0x7c0, OFFSET boot_here        # some loaders enter at 07c0:0000, some at 0000:7c00
boot_here:
    xor ax, ax
    mov ss, ax
    mov sp, 0x7c00
    mov ax, cs
    mov ds, ax
    sti
    mov si, OFFSET boot_packet
    mov ah, 0x42                        # INT 13h extended read; DL is the drive, as the firmware left it
    int 0x13
    jc boot_failed
    ljmp SEGMENT, OFFSET from_disk
boot_failed:
    hlt
    jmp boot_failed
.align 4
boot_packet:
    .byte 16, 0
    .word SECTORS, 0, SEGMENT
    .quad 0

# ---------------------------------------------------------------- the Linux boot header
.org 0x1f1
    .byte SECTORS - 1                   # setup_sects
    .word 0                             # root_flags
    .long 1                             # syssize, in 16 bytes: the padding at the end
    .word 0, 0, 0                       # ram_size, vid_mode, root_dev
    .word 0xaa55                        # boot_flag, which is the boot sector's signature as well
    jmp short from_loader               # offset 0x200: the setup code's entry
    .ascii "HdrS"
    .word 0x0206                        # protocol version
    .long 0                             # realmode_swtch
    .word 0, 0                          # start_sys_seg, kernel_version
    .byte 0, 1                          # type_of_loader, loadflags: LOADED_HIGH
    .word 0                             # setup_move_size
    .long 0x100000                      # code32_start
    .long 0                             # ramdisk_image, filled in by the loader
header_ramdisk_size:
    .long 0
    .long 0                             # bootsect_kludge
    .word 0, 0                          # heap_end_ptr, ext_loader_ver/type
header_cmd_line_ptr:
    .long 0
    .long 0x7fffffff                    # initrd_addr_max
    .long 0x100000                      # kernel_alignment
    .byte 0, 0                          # relocatable_kernel, min_alignment
    .word 0                             # xloadflags
    .long CMDLINE                       # cmdline_size
    .long 0, 0, 0                       # hardware_subarch, hardware_subarch_data

# ---------------------------------------------------------------- entries
from_loader:                            # CS = SEGMENT + 0x20, DS = SEGMENT
    push ds
    push OFFSET from_kernel
    retf
from_kernel:
    mov byte ptr [boot_drive], 0x80
    mov byte ptr [booted_from], 'K'
    jmp start
from_disk:
    push cs
    pop ds
    mov [boot_drive], dl
start:
    cli
    mov ax, cs
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0xfff0
    cld
    call uarts_init
    call interrupts_init
    call acpi_init
    call command_line_copy
    call greet
    call words_obey

# Nothing is lost between looking and sleeping: interrupts are off while looking, and STI lets none in before HLT.
main:
    call work
    cli
    call console_waiting
    jnz main_again
    call agent_waiting
    jnz main_again
    sti
    hlt
main_again:
    sti
    jmp main

work:
    call console_poll
    call agent_poll
    jmp button_poll

greet:
    mov si, OFFSET s_hello
    call print
    mov al, [booted_from]
    call console_put
    mov si, OFFSET s_memory
    call print
    call memory_total
    call print_decimal
    mov si, OFFSET s_acpi
    call print
    mov ax, [acpi_base]
    call print_hex
    call counter_bump
    cmp byte ptr [booted_from], 'K'
    jne greet_end
    mov si, OFFSET s_initrd
    call print
    mov eax, [header_ramdisk_size]
    call print_decimal
    mov si, OFFSET s_cmdline
    call print
    mov si, OFFSET cmdline
    call print
greet_end:
    mov si, OFFSET s_ready
    jmp print

# ---------------------------------------------------------------- the console's commands
console_poll:                           # obeys every character that waits on COM1
    call console_waiting
    jz return
    mov dx, COM1
    in al, dx
    call obey
    jmp console_poll

obey:                                   # AL: a command's letter; others are echoed as <c>
    mov bx, OFFSET commands
obey_next:
    mov ah, [bx]
    test ah, ah
    jz echo
    cmp al, ah
    je obey_it
    add bx, 3
    jmp obey_next
obey_it:
    jmp [bx + 1]
echo:
    push ax
    mov al, '<'
    call console_put
    pop ax
    call console_put
    mov si, OFFSET s_echo_end
    jmp print

.macro command letter, routine
    .byte \letter
    .word \routine
.endm
commands:
    command 'd', disk_count             # bump the disk's counter
    command 'h', hang                   # stop for ever, interrupts off: only force ends it
    command 'n', deafen                 # ignore the power button, or obey it again
    command 'p', panic                  # report a panic to pvpanic, and go on
    command 'q', power_off              # ACPI S5
    command 'r', reset                  # reset, as a reboot does
    command 't', triple_fault           # reset, as a crash does
    command 'u', uptime                 # print the age in ticks of 10 ms
    command 'w', write_lines            # print numbered lines until the next character
    command 'x', debug_exit             # make QEMU exit with status 33, or as exit=N said
    .byte 0

disk_count:
    call counter_bump
    mov si, OFFSET s_newline
    jmp print
deafen:
    mov si, OFFSET s_deaf
    xor byte ptr [deaf], 1
    jnz print
    mov si, OFFSET s_hearing
    jmp print
panic:
    mov si, OFFSET s_panic
    call print
    mov dx, PVPANIC
    mov al, 1                           # PVPANIC_PANICKED
    out dx, al
return:
    ret
debug_exit:
    mov dx, DEBUG_EXIT
    mov al, [exit_value]
    out dx, al
    ret
uptime:
    mov si, OFFSET s_uptime
    call print
    mov eax, [ticks]
    call print_decimal
    mov si, OFFSET s_newline
    jmp print
write_lines:
    mov dword ptr [lines], 0
write_line:
    mov si, OFFSET s_line
    call print
    inc dword ptr [lines]
    mov eax, [lines]
    call print_decimal
    mov si, OFFSET s_newline
    call print
    call agent_poll
    call button_poll
    call console_waiting
    jz write_line
    ret

.include "cmdline.inc"
.include "serial.inc"
.include "machine.inc"
.include "power.inc"
.include "disk.inc"
.include "agent.inc"

# ---------------------------------------------------------------- data
s_hello:    .asciz "\r\nKVMCTL-TINY boot="
s_memory:   .asciz " memk="
s_acpi:     .asciz " pm="
s_boots:    .asciz " boots="
s_none:     .asciz "none"
s_initrd:   .asciz " initrd="
s_cmdline:  .asciz " cmdline="
s_ready:    .asciz "\r\nREADY\r\n"
s_echo_end: .ascii ">"
s_newline:  .asciz "\r\n"
s_button:   .asciz "POWER-BUTTON\r\n"
s_off:      .asciz "OFF\r\n"
s_deaf:     .asciz "DEAF\r\n"
s_hearing:  .asciz "HEARING\r\n"
s_panic:    .asciz "PANIC\r\n"
s_uptime:   .asciz "uptime="
s_line:     .asciz "line="

boot_drive:  .byte 0                    # the BIOS's number of the disk with the counter
booted_from: .byte 'D'                  # D: a boot sector, K: the Linux boot protocol
deaf:        .byte 0
exit_value:  .byte EXIT_DEFAULT
agent_mode:  .byte AGENT_OBEYS
.align 4
ticks:       .long 0
lines:       .long 0
memory_kib:  .long 0
acpi_base:   .word 0                    # the port of PM1_STS; 0 where there is none (microvm)
agent_used:  .word 0                    # bytes in agent_line

.org SECTORS * 512
    .fill 16, 1, 0x90                   # the boot protocol wants a protected-mode part; nobody jumps there
.org (SECTORS + 1) * 512
