"""Bit tables: which name each bit of a CPUID word or a model-specific register has.

The names are those of QEMU's ``-cpu MODEL,+NAME`` (target/i386/cpu.c), because that is where one uses them; bits that
QEMU has no name for but that decide about virtualisation carry Linux's. Bit meanings: Intel SDM volumes 2 and 3, AMD
APM volume 3, and <asm/kvm_para.h> for KVM's own leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Register: TypeAlias = Literal["eax", "ebx", "ecx", "edx"]
Word: TypeAlias = tuple[int, int, Register]
"""Leaf, subleaf and register."""


def _row(first: int, names: str) -> dict[int, str]:
    """`names` for the bits from `first` upwards; ``-`` skips one."""
    return {first + offset: name for offset, name in enumerate(names.split()) if name != "-"}


KVM_SIGNATURE: Final = 0x4000_0000
KVM_FEATURES: Final = 0x4000_0001
EXTENDED: Final = 0x8000_0001

CPUID_WORDS: Final[Mapping[Word, Mapping[int, str]]] = {
    (0x1, 0, "ecx"): _row(0, "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm")
    | _row(16, "- pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave - avx f16c rdrand hypervisor"),
    (0x1, 0, "edx"): _row(0, "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush")
    | _row(21, "ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"),
    (0x6, 0, "eax"): {2: "arat"},
    (0x7, 0, "ebx"): _row(0, "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm")
    | _row(13, "zero-fcs-fds mpx - avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt")
    | _row(26, "avx512pf avx512er avx512cd sha-ni avx512bw avx512vl"),
    (0x7, 0, "ecx"): _row(1, "avx512vbmi umip pku - waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni")
    | _row(12, "avx512bitalg - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote - movdiri")
    | _row(28, "movdir64b - sgxlc pks"),
    (0x7, 0, "edx"): _row(2, "avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - - - serialize")
    | _row(16, "tsx-ldtrk - - arch-lbr - - amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d")
    | _row(29, "arch-capabilities core-capability ssbd"),
    (0x7, 1, "eax"): _row(0, "sha512 sm3 sm4 - avx-vnni avx512-bf16 - cmpccxadd - - fzrm fsrs fsrc")
    | _row(17, "fred lkgs wrmsrns - amx-fp16 - avx-ifma - - lam"),
    (0x7, 2, "edx"): _row(0, "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
    (0xD, 1, "eax"): _row(0, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (KVM_FEATURES, 0, "eax"): _row(0, "kvmclock kvm-nopiodelay kvm-mmu kvmclock kvm-asyncpf kvm-steal-time kvm-pv-eoi")
    | _row(7, "kvm-pv-unhalt - kvm-pv-tlb-flush kvm-asyncpf-vmexit kvm-pv-ipi kvm-poll-control kvm-pv-sched-yield")
    | _row(14, "kvm-asyncpf-int kvm-msi-ext-dest-id kvm-hc-map-gpa-range kvm-migration-control")
    | {24: "kvmclock-stable-bit"},
    (KVM_FEATURES, 0, "edx"): {0: "kvm-hint-dedicated"},
    (EXTENDED, 0, "ecx"): _row(0, "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw")
    | _row(10, "ibs xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb"),
    (EXTENDED, 0, "edx"): {11: "syscall", 20: "nx", 22: "mmxext", 29: "lm"}
    | _row(25, "fxsr-opt pdpe1gb rdtscp - - 3dnowext 3dnow"),
    (0x8000_0007, 0, "edx"): {8: "invtsc"},
    (0x8000_0008, 0, "ebx"): _row(0, "clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp")
    | _row(17, "stibp-always-on - - - - - - amd-ssbd virt-ssbd amd-no-ssb - amd-psfd"),
    (0x8000_000A, 0, "edx"): _row(0, "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists")
    | _row(10, "pause-filter - pfthreshold avic - v-vmsave-vmload vgif")
    | {25: "vnmi", 28: "svme-addr-chk"},
    (0x8000_001F, 0, "eax"): _row(0, "sme sev - sev-es sev-snp"),
    (0x8000_0021, 0, "eax"): {0: "no-nested-data-bp", 2: "lfence-always-serializing", 6: "null-sel-clr-base"}
    | {8: "auto-ibrs", 27: "sbpb", 28: "ibpb-brtype", 29: "srso-no", 30: "srso-user-kernel-no"},
}
"""The names of the bits of every CPUID word that has any."""

ARCH_CAPABILITIES: Final = 0x10A
VMX_PROCBASED_CTLS2: Final = 0x48B
VMX_EPT_VPID_CAP: Final = 0x48C
VMX_TRUE_PINBASED_CTLS: Final = 0x48D
VMX_TRUE_PROCBASED_CTLS: Final = 0x48E

MSR_NAMES: Final[Mapping[int, str]] = {
    0x8B: "IA32_BIOS_SIGN_ID",
    0xCE: "MSR_PLATFORM_INFO",
    ARCH_CAPABILITIES: "IA32_ARCH_CAPABILITIES",
    0x345: "IA32_PERF_CAPABILITIES",
    0x480: "IA32_VMX_BASIC",
    0x481: "IA32_VMX_PINBASED_CTLS",
    0x482: "IA32_VMX_PROCBASED_CTLS",
    0x483: "IA32_VMX_EXIT_CTLS",
    0x484: "IA32_VMX_ENTRY_CTLS",
    0x485: "IA32_VMX_MISC",
    0x486: "IA32_VMX_CR0_FIXED0",
    0x487: "IA32_VMX_CR0_FIXED1",
    0x488: "IA32_VMX_CR4_FIXED0",
    0x489: "IA32_VMX_CR4_FIXED1",
    0x48A: "IA32_VMX_VMCS_ENUM",
    VMX_PROCBASED_CTLS2: "IA32_VMX_PROCBASED_CTLS2",
    VMX_EPT_VPID_CAP: "IA32_VMX_EPT_VPID_CAP",
    VMX_TRUE_PINBASED_CTLS: "IA32_VMX_TRUE_PINBASED_CTLS",
    VMX_TRUE_PROCBASED_CTLS: "IA32_VMX_TRUE_PROCBASED_CTLS",
    0x48F: "IA32_VMX_TRUE_EXIT_CTLS",
    0x490: "IA32_VMX_TRUE_ENTRY_CTLS",
    0x491: "IA32_VMX_VMFUNC",
    0xC001_0015: "MSR_K7_HWCR",
    0xC001_1029: "MSR_AMD64_DE_CFG",
}
"""The names of KVM's feature registers."""

MSR_WORDS: Final[Mapping[int, Mapping[int, str]]] = {
    ARCH_CAPABILITIES: _row(0, "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no")
    | _row(13, "sbdr-ssdp-no fbsdp-no psdp-no - fb-clear - - bhi-no - - - pbrsb-no - gds-no rfds-no rfds-clear"),
    VMX_EPT_VPID_CAP: {0: "vmx-ept-execonly", 6: "vmx-page-walk-4", 7: "vmx-page-walk-5", 16: "vmx-ept-2mb"}
    | {17: "vmx-ept-1gb", 20: "vmx-invept", 21: "vmx-eptad", 32: "vmx-invvpid"},
}
"""Registers whose bits are features as they stand."""

MSR_CONTROLS: Final[Mapping[int, Mapping[int, str]]] = {
    VMX_TRUE_PINBASED_CTLS: {5: "vmx-vnmi", 6: "vmx-preemption-timer", 7: "vmx-posted-intr"},
    VMX_TRUE_PROCBASED_CTLS: {21: "vmx-flexpriority", 28: "vmx-msr-bitmap", 31: "vmx-secondary-ctls"},
    VMX_PROCBASED_CTLS2: _row(0, "vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid")
    | _row(6, "vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-ple vmx-rdrand-exit")
    | _row(12, "vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-encls-exit vmx-rdseed-exit vmx-pml")
    | {20: "vmx-xsaves", 25: "vmx-tsc-scaling", 26: "vmx-enable-user-wait-pause"},
}
"""Control registers: a control may be switched on where its bit in the upper half is set (SDM appendix A.3)."""

VM_TYPES: Final[Mapping[int, str]] = _row(0, "default sw-protected sev sev-es sev-snp tdx")
"""The kinds of VM that KVM_CAP_VM_TYPES announces (<asm/kvm.h>)."""
