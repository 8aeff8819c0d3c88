"""From moments that were seen to the stages of a boot, and from many boots to what they amount to."""

from __future__ import annotations

import pytest

from kvmctl.runtime.bootmarks import Boot, BootProfile, Stage, find_init, kernel_began, percentile

WHOLE = {
    Stage.QEMU: 10.1,
    Stage.FIRMWARE: 10.4,
    Stage.KERNEL: 11.4,
    Stage.INIT: 12.0,
    Stage.AGENT: 12.1,
    Stage.EXEC: 12.2,
}
KERNEL_LOG = """\
[    0.000000] Linux version 6.1.0
[    0.733210] Run scripts as init process of nobody
[    1.733210] Run /init as init process
[    2.000000] Run /sbin/init as init process
"""


def test_the_stages_of_a_boot_add_up_to_the_whole_of_it() -> None:
    boot = Boot(10.0, WHOLE)
    assert boot.stages == pytest.approx(
        {"qemu": 0.1, "firmware": 0.3, "kernel": 1.0, "init": 0.6, "agent": 0.1, "exec": 0.1}
    )
    assert boot.total == pytest.approx(sum(boot.stages.values()))


def test_the_time_of_a_stage_that_nobody_saw_end_is_in_the_next() -> None:
    boot = Boot(10.0, {Stage.QEMU: 10.1, Stage.AGENT: 12.1})
    assert boot.stages == pytest.approx({"qemu": 0.1, "agent": 2.0})
    assert Boot(10.0, {}).total == 0


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(20, 0, -1)]
    assert percentile(values, 50) == 10
    assert percentile(values, 95) == 19
    assert percentile([3.0], 50) == percentile([3.0], 95) == 3.0


def test_a_stage_is_summed_up_over_the_boots_in_which_it_was_seen() -> None:
    profile = BootProfile("web", "tcg", "7.2.22", (Boot(10.0, WHOLE), Boot(10.0, {Stage.QEMU: 10.3})))
    assert profile.seconds(Stage.QEMU) == pytest.approx([0.1, 0.3])
    assert len(profile.seconds(Stage.EXEC)) == 1
    assert profile.totals == pytest.approx([2.2, 0.3])


def test_the_kernel_began_as_long_before_it_was_asked_as_it_says() -> None:
    assert kernel_began("2.50 4.00\n", asked=100.0, answered=100.2) == pytest.approx(97.595)


@pytest.mark.parametrize("uptime", ["", "none", "\n"])
def test_what_is_no_uptime_tells_of_no_beginning(uptime: str) -> None:
    assert kernel_began(uptime, asked=100.0, answered=100.2) is None


def test_the_first_process_is_the_first_that_the_kernel_started() -> None:
    assert find_init(KERNEL_LOG.replace("Run scripts as init process of nobody", "other")) == 1.73321
    assert find_init("[    1.5][    T1] Run /init as init process\n") == 1.5
    assert find_init("nothing of the kind\n") is None
