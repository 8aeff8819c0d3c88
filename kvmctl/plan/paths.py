"""Every path that kvmctl ever creates, each with its one-line meaning. Nothing here touches a file system.

Root uses ``/etc``, ``/var/lib``, ``/run`` and ``/var/cache``; everyone else the XDG directories; ``KVMCTL_CONFIG_DIR``,
``KVMCTL_STATE_DIR``, ``KVMCTL_RUNTIME_DIR`` and ``KVMCTL_CACHE_DIR`` override each and are the directory itself. All
directories are 0700 and all files 0600. Paths are strings: they end in command lines and in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from posixpath import dirname, join
from typing import Final, NamedTuple

from kvmctl.errors import NotFound
from kvmctl.plan.template_paths import TemplatePaths

SUN_PATH_MAX: Final = 107
"""Bytes of a Unix socket's path that ``struct sockaddr_un`` can hold besides the terminating zero
(``<linux/un.h>``)."""


RESIDENT: Final = "resident"
"""The id of the port at which a program waits in the guest (see `kvmctl.guest.resident`), and the name of what is
connected to it in forks."""
HELPER_LOCK: Final = ".helper.lock"
"""How the names of helper programs' locks end, so that those of a plan that can't be read are found too."""

NAME: Final = r"(?!.*\.\.)(?!.*\.(toml|json)$)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""What a machine may be called: its name is the name of directories, and QEMU's ``-name``, and must not be taken for
that of a file."""
NAME_ALLOWED: Final = (
    "1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..' or '.toml' at its end"
)


def is_name(text: str) -> bool:
    """Whether a machine may be called `text`."""
    return re.fullmatch(NAME, text) is not None


def check_name(name: str, *, of: str = "machine") -> str:
    """`name` itself. Raises NotFound where no machine (or what else it is `of`) can be called that."""
    if not is_name(name):
        raise NotFound(f"no {of} can be called {name!r}", hint=f"A name is {NAME_ALLOWED}.")
    return name


class Roots(NamedTuple):
    """The four directories under which everything lies."""

    config: str
    state: str
    runtime: str
    cache: str
    runtime_is_volatile: bool = False
    """The runtime directory is the login session's own and vanishes at logout (``$XDG_RUNTIME_DIR``)."""

    @classmethod
    def resolve(cls, env: Mapping[str, str], *, uid: int, home: str, has_run_user: bool) -> Roots:
        """The directories for this user and environment; `has_run_user` says whether ``/run/user/UID`` exists."""
        if uid == 0:
            config, state, runtime, cache = (
                "/etc/kvmctl",
                "/var/lib/kvmctl",
                "/run/kvmctl",
                "/var/cache/kvmctl",
            )
            volatile = False
        else:
            config = join(env.get("XDG_CONFIG_HOME") or join(home, ".config"), "kvmctl")
            state = join(env.get("XDG_STATE_HOME") or join(home, ".local/state"), "kvmctl")
            cache = join(env.get("XDG_CACHE_HOME") or join(home, ".cache"), "kvmctl")
            session = env.get("XDG_RUNTIME_DIR") or (f"/run/user/{uid}" if has_run_user else "")
            volatile = bool(session)
            runtime = join(session, "kvmctl") if session else join(env.get("KVMCTL_STATE_DIR") or state, "run")
        return cls(
            config=env.get("KVMCTL_CONFIG_DIR") or config,
            state=env.get("KVMCTL_STATE_DIR") or state,
            runtime=env.get("KVMCTL_RUNTIME_DIR") or runtime,
            cache=env.get("KVMCTL_CACHE_DIR") or cache,
            runtime_is_volatile=volatile and not env.get("KVMCTL_RUNTIME_DIR"),
        )

    @property
    def machines(self) -> str:
        """Specs of defined machines, one ``NAME.toml`` each."""
        return join(self.config, "machines")

    @property
    def qemu_cache(self) -> str:
        """Probe replies of QEMU binaries, keyed by their file identity."""
        return join(self.cache, "qemu")

    @property
    def plan_cache(self) -> str:
        """Plans of specs that were started before, for as long as nothing that they were made from has changed."""
        return join(self.cache, "plans")

    def test_lock(self, template: str) -> str:
        """Locked by the pytest worker that makes that template; its time tells when a test run last used it."""
        return join(self.cache, "tests", f"{check_name(template)}.lock")

    @property
    def templates(self) -> str:
        """Frozen machines, one directory each."""
        return join(self.state, "templates")

    def template(self, name: str) -> TemplatePaths:
        """The paths of one template. Raises NotFound for what can't be a name."""
        return TemplatePaths(name=name, directory=join(self.templates, check_name(name)))

    def unfinished_template(self, name: str) -> TemplatePaths:
        """Where a template is made, to be renamed when it is whole: nobody looks at a name that begins with a dot."""
        return TemplatePaths(name=name, directory=join(self.templates, f".{check_name(name)}"))

    @property
    def images(self) -> str:
        """Disk images by content, and the names they go by: what machines' disks are overlays of."""
        return join(self.state, "images")

    @property
    def ephemeral(self) -> str:
        """What machines that keep nothing write while they run: too much for a run directory, which is often memory."""
        return join(self.state, "ephemeral")

    @property
    def downloads(self) -> str:
        """Images on their way here: what a pull that was broken off goes on from."""
        return join(self.cache, "downloads")

    @property
    def builds(self) -> str:
        """Where images are built: a directory for each build and its lock, both gone when it ends."""
        return join(self.cache, "builds")

    @property
    def catalogue(self) -> str:
        """The user's own additions to the catalogue of images."""
        return join(self.config, "images.toml")

    @property
    def kernel_cache(self) -> str:
        """Kernels out of the distribution's packages: image and modules, a directory each."""
        return join(self.cache, "kernels")

    def kernel(self, package: str) -> str:
        """The kernel of one package."""
        return join(self.kernel_cache, package)

    @property
    def boot_cache(self) -> str:
        """Kernels unpacked and initramfs archives for machines made of this host, by what they were made of."""
        return join(self.cache, "boot")

    def spec(self, name: str) -> str:
        """A defined machine's spec; the machine is defined by this file being there. Raises NotFound."""
        return join(self.machines, f"{check_name(name)}.toml")

    @property
    def machine_states(self) -> str:
        """What is kept of machines from run to run, a directory each."""
        return join(self.state, "machines")

    def machine(self, name: str, *, ephemeral: bool = False) -> MachinePaths:
        """The paths of one machine. An ephemeral one keeps its state under its run directory, and both go together.
        Its disks lie elsewhere, and go with them all the same.

        Raises NotFound for what can't be a machine's name: nothing else is ever made into a path.
        """
        run = join(self.runtime, check_name(name))
        state = join(run, "state") if ephemeral else join(self.machine_states, name)
        scratch = join(self.ephemeral, name)
        return MachinePaths(name, run, state, images=self.images, scratch=scratch, is_ephemeral=ephemeral)


class MachinePaths(NamedTuple):
    """The files of one machine: `run` lives as long as a run, `state` as long as the machine."""

    name: str
    run: str
    state: str
    images: str = ""
    """The image store, which all machines share."""
    scratch: str = ""
    """The disks of an ephemeral run of the machine; gone with the run directory."""
    is_ephemeral: bool = False

    @property
    def lock(self) -> str:
        """Locked exactly while QEMU lives: QEMU inherits the locked descriptor."""
        return join(self.run, "lock")

    @property
    def tether(self) -> str:
        """Locked by whoever the machine depends on: its launcher while it starts, its owner while it is captive.

        Left over and free, that process is gone, and what it was holding up is to be cleared away.
        """
        return join(self.run, "tether")

    @property
    def before(self) -> str:
        """What the last run left, while a start has yet to succeed: put back where it fails."""
        return join(self.run, "before")

    @property
    def before_part(self) -> str:
        """... on its way there, or back."""
        return join(self.run, "before.part")

    @property
    def made(self) -> str:
        """What a start makes elsewhere, on record before it is made: unmade by it where the start fails or is killed.

        One JSON object a line; gone once the machine runs.
        """
        return join(self.run, "made")

    @property
    def plan(self) -> str:
        """The plan this run was started from, as JSON."""
        return join(self.run, "plan.json")

    @property
    def pid(self) -> str:
        """QEMU's process id, a hint only: never signalled before it is shown to hold the lock."""
        return join(self.run, "pid")

    @property
    def qmp(self) -> str:
        """The public monitor: one client at a time, for short sessions."""
        return join(self.run, "qmp.sock")

    @property
    def agent(self) -> str:
        """The guest agent's channel, where it is a serial port."""
        return join(self.run, "agent.sock")

    @property
    def agent_fifos(self) -> str:
        """The guest agent's channel, where it is a virtio port: two FIFOs, ``.in`` for QEMU to read and ``.out``."""
        return join(self.run, "agent")

    @property
    def agent_lock(self) -> str:
        """Locked by whoever has the FIFOs, and by whoever is next."""
        return join(self.run, "agent.lock")

    @property
    def transfer(self) -> str:
        """The port beside the agent's channel that files are copied through."""
        return join(self.run, "transfer.sock")

    @property
    def resident(self) -> str:
        """The port of the program that waits in the guest; of one that is to be forked, while its template is made."""
        return join(self.run, f"{RESIDENT}.sock")

    @property
    def resident_lock(self) -> str:
        """Locked by whoever runs a command through that port."""
        return join(self.run, f"{RESIDENT}.lock")

    @property
    def transfer_lock(self) -> str:
        """Locked by whoever copies files through that port, their process id inside."""
        return join(self.run, "transfer.lock")

    @property
    def leftovers(self) -> str:
        """What is to be undone in the guest, one file each, locked by whoever is to undo it.

        A file that is not locked is of somebody who was killed: the next command that talks to the guest does it.
        """
        return join(self.run, "leftovers")

    def leftover(self, stem: str) -> str:
        """One thing to be undone in the guest: its file systems frozen (``frozen``), or a command by its mark."""
        return join(self.leftovers, f"{stem}.json")

    @property
    def console(self) -> str:
        """The first serial console: one client at a time."""
        return join(self.run, "console.sock")

    @property
    def console_lock(self) -> str:
        """Locked by the terminal attached to the console, its process id inside."""
        return join(self.run, "console.lock")

    @property
    def console_log(self) -> str:
        """Everything the first serial console printed, from byte 0."""
        return join(self.run, "console.log")

    @property
    def vnc(self) -> str:
        """The VNC display's socket, unless an address was asked for."""
        return join(self.run, "vnc.sock")

    @property
    def journal(self) -> str:
        """The event journal: what QEMU's third monitor printed, one JSON object a line."""
        return join(self.run, "journal.jsonl")

    @property
    def qemu_log(self) -> str:
        """QEMU's stderr."""
        return join(self.run, "qemu.log")

    def helper_socket(self, stem: str) -> str:
        """The socket of a helper program, by its id, for the moment that connecting to it takes."""
        return join(self.run, f"{stem}.helper.sock")

    def helper_lock(self, stem: str) -> str:
        """Locked exactly while the helper program of that id lives, which inherits the locked descriptor."""
        return join(self.run, stem + HELPER_LOCK)

    def helper_log(self, stem: str) -> str:
        """What the helper program of that id prints."""
        return join(self.run, f"{stem}.helper.log")

    def helper_tree(self, stem: str) -> str:
        """An empty directory, where the helper program of that id has the tree it serves: mounted for it alone."""
        return join(self.run, f"{stem}.tree")

    @property
    def secrets(self) -> str:
        """Secrets given by environment, one file each, for QEMU to read."""
        return join(self.run, "secrets")

    @property
    def machine_type(self) -> str:
        """The versioned machine type that a defined machine was first started as, and is from then on."""
        return join(self.state, "machine-type")

    @property
    def disks(self) -> str:
        """Disk images created for this machine that have no path of their own."""
        return self.scratch if self.is_ephemeral else join(self.state, "disks")

    @property
    def nvram(self) -> str:
        """UEFI variables, qcow2 from the first boot on so that snapshots can hold them."""
        return join(self.state, "nvram.qcow2")

    @property
    def history(self) -> str:
        """Journals of earlier runs, one summary a line, bounded."""
        return join(self.state, "history.jsonl")

    @property
    def ssh(self) -> str:
        """Keys made for logging in to the guest: as long-lived as its disks."""
        return join(self.state, "ssh")

    @property
    def ssh_key(self) -> str:
        """The private key that kvmctl logs in with; the public one is beside it, as ``.pub``."""
        return join(self.ssh, "id_ed25519")

    @property
    def ssh_host_key(self) -> str:
        """The guest's private host key, given to it at first boot; the public one is beside it, as ``.pub``."""
        return join(self.ssh, "host_ed25519")

    @property
    def known_hosts(self) -> str:
        """The guest's public host key as ssh reads it, so that nobody is asked to trust what was never seen."""
        return join(self.ssh, "known_hosts")

    @property
    def guest(self) -> str:
        """What the guest is told at its first boot, kept for all later ones: a guest that loses it starts anew."""
        return join(self.state, "guest")

    @property
    def guest_seed(self) -> str:
        """The disk that cloud-init reads, labelled ``CIDATA``."""
        return join(self.guest, "seed.iso")

    @property
    def guest_digest(self) -> str:
        """A digest of all that the guest's files were made from: they are made anew when it changes."""
        return join(self.guest, "digest")

    def guest_credential(self, name: str) -> str:
        """The systemd credential `name`, as the guest reads it."""
        return join(self.guest, name)

    @property
    def known_hosts_of_run(self) -> str:
        """Host keys seen in this run, of a guest that has no disk to keep one on and makes a new one at every boot."""
        return join(self.run, "known_hosts")

    def socket(self, stem: str) -> str:
        """The socket of a channel or console beyond the first, by its id."""
        return join(self.run, f"{stem}.sock")

    def log(self, stem: str) -> str:
        """The log of a console beyond the first, by its id."""
        return join(self.run, f"{stem}.log")

    def secret(self, stem: str) -> str:
        """The file of one secret, by its object's id."""
        return join(self.secrets, stem)


class ImagePaths(NamedTuple):
    """The files of the image store in the directory `root`."""

    root: str

    @property
    def blobs(self) -> str:
        """Images, each called by the SHA-256 of its content: 0400, and never changed."""
        return join(self.root, "sha256")

    @property
    def names(self) -> str:
        """What the images are called, and what is known of them."""
        return join(self.root, "names")

    @property
    def incoming(self) -> str:
        """Images on their way in, each locked by who brings it."""
        return join(self.root, "incoming")

    @property
    def lock(self) -> str:
        """Locked by all who use an image's name, and alone by who adds or removes."""
        return join(self.root, "lock")

    def blob(self, digest: str) -> str:
        """The image with this digest."""
        return join(self.blobs, digest)

    def record(self, name: str) -> str:
        """Which image bears the name, and where it is from, as JSON. Raises NotFound for what can't be a name."""
        return join(self.names, f"{check_name(name, of='image')}.json")


def fits_sun_path(path: str) -> bool:
    """Whether a program that knows nothing of ``/proc/self/fd`` can bind or connect to `path`."""
    return len(path.encode()) <= SUN_PATH_MAX


BUILTIN_TINY: Final = "builtin:tiny"
"""What a spec calls the guest that ships with kvmctl."""


_TINY: Final = join(dirname(dirname(__file__)), "guest", "tiny")

BUILTIN_SPECS: Final[Mapping[str, str]] = {"tiny": join(_TINY, "tiny.toml")}
"""The specs that ship with kvmctl, by the name they are run under."""


def builtin_guest() -> str:
    """The image of the guest that ships with kvmctl."""
    return join(_TINY, "tiny.bin")
