"""kvmctl: machine specs in, running QEMU/KVM virtual machines out, and no daemon.

::

    from kvmctl import launch, load

    async with launch(load("machines/tiny.toml")) as vm:
        print(await vm.status())

Names are bound when first used (PEP 562), so that importing kvmctl costs nothing and a command pays only for what it
needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmctl.compile import compile_plan as compile_plan
    from kvmctl.errors import AgentError as AgentError
    from kvmctl.errors import AlreadyRunning as AlreadyRunning
    from kvmctl.errors import AptError as AptError
    from kvmctl.errors import Busy as Busy
    from kvmctl.errors import CommandFailed as CommandFailed
    from kvmctl.errors import ConsoleBusy as ConsoleBusy
    from kvmctl.errors import CopyFailed as CopyFailed
    from kvmctl.errors import DeadlineExceeded as DeadlineExceeded
    from kvmctl.errors import DigestMismatch as DigestMismatch
    from kvmctl.errors import DownloadError as DownloadError
    from kvmctl.errors import HostError as HostError
    from kvmctl.errors import HostKeyChanged as HostKeyChanged
    from kvmctl.errors import ImageBusy as ImageBusy
    from kvmctl.errors import ImageError as ImageError
    from kvmctl.errors import ImageMissing as ImageMissing
    from kvmctl.errors import KvmctlError as KvmctlError
    from kvmctl.errors import KvmUnavailable as KvmUnavailable
    from kvmctl.errors import LaunchFailed as LaunchFailed
    from kvmctl.errors import MonitorBusy as MonitorBusy
    from kvmctl.errors import MonitorLost as MonitorLost
    from kvmctl.errors import NotFound as NotFound
    from kvmctl.errors import NotRunning as NotRunning
    from kvmctl.errors import PortBusy as PortBusy
    from kvmctl.errors import Problem as Problem
    from kvmctl.errors import QemuNotFound as QemuNotFound
    from kvmctl.errors import QemuTooOld as QemuTooOld
    from kvmctl.errors import QmpError as QmpError
    from kvmctl.errors import SpecError as SpecError
    from kvmctl.errors import StateError as StateError
    from kvmctl.errors import TemplateDamaged as TemplateDamaged
    from kvmctl.errors import TemplateMisfit as TemplateMisfit
    from kvmctl.errors import Unreachable as Unreachable
    from kvmctl.errors import WaitFailed as WaitFailed
    from kvmctl.guest.agent import Agent as Agent
    from kvmctl.guest.agent import AgentInfo as AgentInfo
    from kvmctl.guest.copy import Copied as Copied
    from kvmctl.guest.info import GuestFileSystem as GuestFileSystem
    from kvmctl.guest.info import GuestInfo as GuestInfo
    from kvmctl.guest.info import GuestInterface as GuestInterface
    from kvmctl.guest.info import GuestOs as GuestOs
    from kvmctl.guest.info import GuestUser as GuestUser
    from kvmctl.guest.init.session import Terminal as Terminal
    from kvmctl.guest.poll import CommandInterrupted as CommandInterrupted
    from kvmctl.guest.poll import CommandSignals as CommandSignals
    from kvmctl.guest.run import Control as Control
    from kvmctl.guest.run import ExecResult as ExecResult
    from kvmctl.guest.ssh import Login as Login
    from kvmctl.guest.ssh import find_ssh_failure as find_ssh_failure
    from kvmctl.guest.ssh import ssh_command as ssh_command
    from kvmctl.guest.ssh import ssh_configuration as ssh_configuration
    from kvmctl.guest.sshrun import SshLog as SshLog
    from kvmctl.guest.sshrun import find_ssh as find_ssh
    from kvmctl.guest.upkeep import Trimmed as Trimmed
    from kvmctl.host.doctor import Report as Report
    from kvmctl.host.doctor import diagnose as diagnose
    from kvmctl.host.finding import Finding as Finding
    from kvmctl.host.record import Survey as Survey
    from kvmctl.host.survey import survey as survey
    from kvmctl.image.build.debian import BuildProgress as BuildProgress
    from kvmctl.image.build.debian import BuiltImage as BuiltImage
    from kvmctl.image.build.debian import build_debian as build_debian
    from kvmctl.image.catalogue import CatalogueEntry as CatalogueEntry
    from kvmctl.image.pull import PulledImage as PulledImage
    from kvmctl.image.pull import PullProgress as PullProgress
    from kvmctl.image.record import Image as Image
    from kvmctl.image.uses import ImageGarbage as ImageGarbage
    from kvmctl.plan.model import Plan as Plan
    from kvmctl.plan.model import plain as plain
    from kvmctl.plan.option import render as render
    from kvmctl.plan.paths import MachinePaths as MachinePaths
    from kvmctl.plan.paths import Roots as Roots
    from kvmctl.plan.preset import IMAGE_DISK_SIZE as IMAGE_DISK_SIZE
    from kvmctl.plan.shell import readable as readable
    from kvmctl.plan.shell import shell_script as shell_script
    from kvmctl.runtime.attach import attach as attach
    from kvmctl.runtime.bootmarks import Boot as Boot
    from kvmctl.runtime.bootmarks import BootProfile as BootProfile
    from kvmctl.runtime.bootmarks import Stage as Stage
    from kvmctl.runtime.bootmarks import percentile as percentile
    from kvmctl.runtime.bootprofile import profile_boot as profile_boot
    from kvmctl.runtime.building import build_debian_image as build_debian_image
    from kvmctl.runtime.console import Console as Console
    from kvmctl.runtime.console import open_console as open_console
    from kvmctl.runtime.describe import Description as Description
    from kvmctl.runtime.describe import describe as describe
    from kvmctl.runtime.describe import find_verdict as find_verdict
    from kvmctl.runtime.detached import Started as Started
    from kvmctl.runtime.detached import start_detached as start_detached
    from kvmctl.runtime.end import Rung as Rung
    from kvmctl.runtime.end import StopResult as StopResult
    from kvmctl.runtime.end import force_stop as force_stop
    from kvmctl.runtime.end import kill as kill
    from kvmctl.runtime.events import Event as Event
    from kvmctl.runtime.events import Exit as Exit
    from kvmctl.runtime.events import ExitReason as ExitReason
    from kvmctl.runtime.events import State as State
    from kvmctl.runtime.faults import Faults as Faults
    from kvmctl.runtime.fork import Fork as Fork
    from kvmctl.runtime.fork import Template as Template
    from kvmctl.runtime.fork import load_template as load_template
    from kvmctl.runtime.helper_locks import HelperInfo as HelperInfo
    from kvmctl.runtime.hostroot.launch import launch_host_root as launch_host_root
    from kvmctl.runtime.hostroot.launch import run_host_root as run_host_root
    from kvmctl.runtime.hostroot.setting import HostRoot as HostRoot
    from kvmctl.runtime.hostroot.vm import HostRootVm as HostRootVm
    from kvmctl.runtime.images import ImageInfo as ImageInfo
    from kvmctl.runtime.images import RemovedImage as RemovedImage
    from kvmctl.runtime.images import available_images as available_images
    from kvmctl.runtime.images import collect_images as collect_images
    from kvmctl.runtime.images import image_names as image_names
    from kvmctl.runtime.images import import_image as import_image
    from kvmctl.runtime.images import list_images as list_images
    from kvmctl.runtime.images import missing_images as missing_images
    from kvmctl.runtime.images import pull_image as pull_image
    from kvmctl.runtime.images import remove_image as remove_image
    from kvmctl.runtime.inside import run_inside as run_inside
    from kvmctl.runtime.launch import launch as launch
    from kvmctl.runtime.launch import start as start
    from kvmctl.runtime.listing import MachineInfo as MachineInfo
    from kvmctl.runtime.listing import find_machine as find_machine
    from kvmctl.runtime.listing import list_machines as list_machines
    from kvmctl.runtime.making import create_template as create_template
    from kvmctl.runtime.monitor import Monitor as Monitor
    from kvmctl.runtime.names import machine_names as machine_names
    from kvmctl.runtime.ops import Balloon as Balloon
    from kvmctl.runtime.pool import Pool as Pool
    from kvmctl.runtime.prepare import prepare as prepare
    from kvmctl.runtime.quickexec import exec_quickly as exec_quickly
    from kvmctl.runtime.quickfork import fork_quickly as fork_quickly
    from kvmctl.runtime.raising import Profile as Profile
    from kvmctl.runtime.reach import Address as Address
    from kvmctl.runtime.reach import find_addresses as find_addresses
    from kvmctl.runtime.reach import find_login as find_login
    from kvmctl.runtime.reach import has_likely_login as has_likely_login
    from kvmctl.runtime.reading import Happening as Happening
    from kvmctl.runtime.reading import Log as Log
    from kvmctl.runtime.reading import read_all_events as read_all_events
    from kvmctl.runtime.reading import read_events as read_events
    from kvmctl.runtime.reading import read_log as read_log
    from kvmctl.runtime.registry import Definition as Definition
    from kvmctl.runtime.registry import create as create
    from kvmctl.runtime.registry import define as define
    from kvmctl.runtime.registry import files_of as files_of
    from kvmctl.runtime.registry import read_spec as read_spec
    from kvmctl.runtime.registry import remove as remove
    from kvmctl.runtime.registry import write_spec as write_spec
    from kvmctl.runtime.specs import find_spec as find_spec
    from kvmctl.runtime.stop import stop as stop
    from kvmctl.runtime.store import find_roots as find_roots
    from kvmctl.runtime.template import TemplateInfo as TemplateInfo
    from kvmctl.runtime.template import collect_templates as collect_templates
    from kvmctl.runtime.template import find_template as find_template
    from kvmctl.runtime.template import list_templates as list_templates
    from kvmctl.runtime.template import remove_template as remove_template
    from kvmctl.runtime.template import template_names as template_names
    from kvmctl.runtime.told import GuestFiles as GuestFiles
    from kvmctl.runtime.told import check_guest as check_guest
    from kvmctl.runtime.told import guest_files as guest_files
    from kvmctl.runtime.vm import Status as Status
    from kvmctl.runtime.vm import Vm as Vm
    from kvmctl.runtime.waiting import Condition as Condition
    from kvmctl.runtime.waiting import Sightings as Sightings
    from kvmctl.runtime.waiting import parse_condition as parse_condition
    from kvmctl.runtime.waiting import wait_for as wait_for
    from kvmctl.runtime.waiting import wait_for_all as wait_for_all
    from kvmctl.runtime.waiting import wait_to_run_inside as wait_to_run_inside
    from kvmctl.spec.load import load as load
    from kvmctl.spec.load import parse as parse
    from kvmctl.spec.load import schema as schema
    from kvmctl.spec.machine import Machine as Machine
    from kvmctl.spec.units import parse_size as parse_size
    from kvmctl.verdict import Verdict as Verdict
    from kvmctl.verdict import VerdictKind as VerdictKind

__version__ = "0.1.0"

_HOME = {
    "compile_plan": "kvmctl.compile",
    "AgentError": "kvmctl.errors",
    "AlreadyRunning": "kvmctl.errors",
    "AptError": "kvmctl.errors",
    "Busy": "kvmctl.errors",
    "CommandFailed": "kvmctl.errors",
    "ConsoleBusy": "kvmctl.errors",
    "CopyFailed": "kvmctl.errors",
    "DeadlineExceeded": "kvmctl.errors",
    "DigestMismatch": "kvmctl.errors",
    "DownloadError": "kvmctl.errors",
    "HostError": "kvmctl.errors",
    "HostKeyChanged": "kvmctl.errors",
    "ImageBusy": "kvmctl.errors",
    "ImageError": "kvmctl.errors",
    "ImageMissing": "kvmctl.errors",
    "KvmUnavailable": "kvmctl.errors",
    "KvmctlError": "kvmctl.errors",
    "LaunchFailed": "kvmctl.errors",
    "MonitorBusy": "kvmctl.errors",
    "MonitorLost": "kvmctl.errors",
    "NotFound": "kvmctl.errors",
    "NotRunning": "kvmctl.errors",
    "PortBusy": "kvmctl.errors",
    "Problem": "kvmctl.errors",
    "QemuNotFound": "kvmctl.errors",
    "QemuTooOld": "kvmctl.errors",
    "QmpError": "kvmctl.errors",
    "SpecError": "kvmctl.errors",
    "StateError": "kvmctl.errors",
    "TemplateDamaged": "kvmctl.errors",
    "TemplateMisfit": "kvmctl.errors",
    "Unreachable": "kvmctl.errors",
    "WaitFailed": "kvmctl.errors",
    "Agent": "kvmctl.guest.agent",
    "AgentInfo": "kvmctl.guest.agent",
    "Copied": "kvmctl.guest.copy",
    "GuestFileSystem": "kvmctl.guest.info",
    "GuestInfo": "kvmctl.guest.info",
    "GuestInterface": "kvmctl.guest.info",
    "GuestOs": "kvmctl.guest.info",
    "GuestUser": "kvmctl.guest.info",
    "Terminal": "kvmctl.guest.init.session",
    "CommandInterrupted": "kvmctl.guest.poll",
    "CommandSignals": "kvmctl.guest.poll",
    "Control": "kvmctl.guest.run",
    "ExecResult": "kvmctl.guest.run",
    "Login": "kvmctl.guest.ssh",
    "find_ssh_failure": "kvmctl.guest.ssh",
    "ssh_command": "kvmctl.guest.ssh",
    "ssh_configuration": "kvmctl.guest.ssh",
    "SshLog": "kvmctl.guest.sshrun",
    "find_ssh": "kvmctl.guest.sshrun",
    "Trimmed": "kvmctl.guest.upkeep",
    "Report": "kvmctl.host.doctor",
    "diagnose": "kvmctl.host.doctor",
    "Finding": "kvmctl.host.finding",
    "Survey": "kvmctl.host.record",
    "survey": "kvmctl.host.survey",
    "BuildProgress": "kvmctl.image.build.debian",
    "BuiltImage": "kvmctl.image.build.debian",
    "build_debian": "kvmctl.image.build.debian",
    "CatalogueEntry": "kvmctl.image.catalogue",
    "PullProgress": "kvmctl.image.pull",
    "PulledImage": "kvmctl.image.pull",
    "Image": "kvmctl.image.record",
    "ImageGarbage": "kvmctl.image.uses",
    "Plan": "kvmctl.plan.model",
    "plain": "kvmctl.plan.model",
    "render": "kvmctl.plan.option",
    "MachinePaths": "kvmctl.plan.paths",
    "Roots": "kvmctl.plan.paths",
    "IMAGE_DISK_SIZE": "kvmctl.plan.preset",
    "readable": "kvmctl.plan.shell",
    "shell_script": "kvmctl.plan.shell",
    "attach": "kvmctl.runtime.attach",
    "Boot": "kvmctl.runtime.bootmarks",
    "BootProfile": "kvmctl.runtime.bootmarks",
    "Stage": "kvmctl.runtime.bootmarks",
    "percentile": "kvmctl.runtime.bootmarks",
    "profile_boot": "kvmctl.runtime.bootprofile",
    "build_debian_image": "kvmctl.runtime.building",
    "Console": "kvmctl.runtime.console",
    "open_console": "kvmctl.runtime.console",
    "Description": "kvmctl.runtime.describe",
    "describe": "kvmctl.runtime.describe",
    "find_verdict": "kvmctl.runtime.describe",
    "Started": "kvmctl.runtime.detached",
    "start_detached": "kvmctl.runtime.detached",
    "Rung": "kvmctl.runtime.end",
    "StopResult": "kvmctl.runtime.end",
    "force_stop": "kvmctl.runtime.end",
    "kill": "kvmctl.runtime.end",
    "Event": "kvmctl.runtime.events",
    "Exit": "kvmctl.runtime.events",
    "ExitReason": "kvmctl.runtime.events",
    "State": "kvmctl.runtime.events",
    "Faults": "kvmctl.runtime.faults",
    "Fork": "kvmctl.runtime.fork",
    "Template": "kvmctl.runtime.fork",
    "load_template": "kvmctl.runtime.fork",
    "HelperInfo": "kvmctl.runtime.helper_locks",
    "launch_host_root": "kvmctl.runtime.hostroot.launch",
    "run_host_root": "kvmctl.runtime.hostroot.launch",
    "HostRoot": "kvmctl.runtime.hostroot.setting",
    "HostRootVm": "kvmctl.runtime.hostroot.vm",
    "ImageInfo": "kvmctl.runtime.images",
    "RemovedImage": "kvmctl.runtime.images",
    "available_images": "kvmctl.runtime.images",
    "collect_images": "kvmctl.runtime.images",
    "image_names": "kvmctl.runtime.images",
    "import_image": "kvmctl.runtime.images",
    "list_images": "kvmctl.runtime.images",
    "missing_images": "kvmctl.runtime.images",
    "pull_image": "kvmctl.runtime.images",
    "remove_image": "kvmctl.runtime.images",
    "run_inside": "kvmctl.runtime.inside",
    "launch": "kvmctl.runtime.launch",
    "start": "kvmctl.runtime.launch",
    "MachineInfo": "kvmctl.runtime.listing",
    "find_machine": "kvmctl.runtime.listing",
    "list_machines": "kvmctl.runtime.listing",
    "machine_names": "kvmctl.runtime.names",
    "create_template": "kvmctl.runtime.making",
    "Monitor": "kvmctl.runtime.monitor",
    "Balloon": "kvmctl.runtime.ops",
    "Pool": "kvmctl.runtime.pool",
    "prepare": "kvmctl.runtime.prepare",
    "Profile": "kvmctl.runtime.raising",
    "exec_quickly": "kvmctl.runtime.quickexec",
    "fork_quickly": "kvmctl.runtime.quickfork",
    "Address": "kvmctl.runtime.reach",
    "find_addresses": "kvmctl.runtime.reach",
    "find_login": "kvmctl.runtime.reach",
    "has_likely_login": "kvmctl.runtime.reach",
    "Happening": "kvmctl.runtime.reading",
    "Log": "kvmctl.runtime.reading",
    "read_all_events": "kvmctl.runtime.reading",
    "read_events": "kvmctl.runtime.reading",
    "read_log": "kvmctl.runtime.reading",
    "Definition": "kvmctl.runtime.registry",
    "create": "kvmctl.runtime.registry",
    "define": "kvmctl.runtime.registry",
    "files_of": "kvmctl.runtime.registry",
    "read_spec": "kvmctl.runtime.registry",
    "remove": "kvmctl.runtime.registry",
    "write_spec": "kvmctl.runtime.registry",
    "find_spec": "kvmctl.runtime.specs",
    "stop": "kvmctl.runtime.stop",
    "find_roots": "kvmctl.runtime.store",
    "TemplateInfo": "kvmctl.runtime.template",
    "collect_templates": "kvmctl.runtime.template",
    "find_template": "kvmctl.runtime.template",
    "list_templates": "kvmctl.runtime.template",
    "remove_template": "kvmctl.runtime.template",
    "template_names": "kvmctl.runtime.template",
    "GuestFiles": "kvmctl.runtime.told",
    "check_guest": "kvmctl.runtime.told",
    "guest_files": "kvmctl.runtime.told",
    "Status": "kvmctl.runtime.vm",
    "Vm": "kvmctl.runtime.vm",
    "Condition": "kvmctl.runtime.waiting",
    "Sightings": "kvmctl.runtime.waiting",
    "parse_condition": "kvmctl.runtime.waiting",
    "wait_for": "kvmctl.runtime.waiting",
    "wait_for_all": "kvmctl.runtime.waiting",
    "wait_to_run_inside": "kvmctl.runtime.waiting",
    "load": "kvmctl.spec.load",
    "parse": "kvmctl.spec.load",
    "schema": "kvmctl.spec.load",
    "Machine": "kvmctl.spec.machine",
    "parse_size": "kvmctl.spec.units",
    "Verdict": "kvmctl.verdict",
    "VerdictKind": "kvmctl.verdict",
}

# Type checkers read the imports at the top. Of a computed list they would take it that no name is public, and of a
# function for all names that every name is.
if not TYPE_CHECKING:
    __all__ = sorted(_HOME)  # noqa: PLE0605  # computed so that the table is the one list

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            message = f"module 'kvmctl' has no attribute {name!r}"
            raise AttributeError(message)
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*sorted(_HOME), *(name for name in globals() if name.startswith("__"))]
