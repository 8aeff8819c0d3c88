"""``[guest]`` lowered: a recipe for the files that tell the guest what to be, and the devices it reads them from.

With NoCloud that is a disk which is there before the guest's first process looks for it: virtio, read-only, and kept
for later boots. Credentials are files of fw_cfg: of SMBIOS strings systemd 252 reads 4096 bytes in all, because it
reads ``/sys/firmware/dmi/entries/11-0/raw`` once, and the kernel gives a page at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from kvmctl.errors import Problem
from kvmctl.plan import model as plan
from kvmctl.plan.facts import ImageFacts
from kvmctl.plan.guest import (
    FirstBoot,
    GuestCard,
    GuestFile,
    GuestMount,
    GuestUser,
    MakeKeys,
    Source,
    TellGuest,
    Way,
)
from kvmctl.plan.mac import derived_mac
from kvmctl.plan.option import Option, keyvals
from kvmctl.plan.sshkey import looks_like_key
from kvmctl.spec.context import Context, Lowered, Part, Seat
from kvmctl.spec.credentials import fw_cfg
from kvmctl.spec.devices import Network, share
from kvmctl.spec.devices.blockdev import block_nodes
from kvmctl.spec.guest import Card, Guest, User
from kvmctl.spec.guestwords import USER, Hash, Secret
from kvmctl.spec.machine import Machine

DISK: Final = "seed"
"""The id of the disk that cloud-init reads."""
_WHY: Final = "guest: what it is told at its first boot"
_FALLBACK_USER: Final = "user"
"""Whom a guest knows whose host's user has a name that no guest would take."""


def login_of(machine: Machine, ctx: Context) -> str | None:
    """Whom to log in as; None where neither the spec nor what is known of the image says that."""
    guest = machine.guest
    if guest is not None and guest.login is not None:
        return guest.login
    if guest is None or guest.user_data is not None:
        user = _image(machine, ctx).user
        return user if user and re.fullmatch(USER, user) else None
    return guest.users[0].name if guest.users else _caller(ctx)


def _image(machine: Machine, ctx: Context) -> ImageFacts:
    """What is known of the image that the first disk which has one begins as."""
    images = (disk.image for disk in machine.disks if disk.image)
    return ctx.host.images.get(next(images, ""), ImageFacts())


def lower_steps(
    machine: Machine,
    ctx: Context,
    *,
    uuid: str,
    mounts: tuple[share.GuestMount, ...] = (),
) -> Lowered:
    """What is made before anything else: keys, and the files that tell the guest. Both say what is wrong with them.

    `mounts` are the shared directories.
    """
    guest = machine.guest
    if guest is None:
        return Lowered()
    keys = MakeKeys(ctx.paths.ssh, f"kvmctl-{ctx.name}", "guest")
    way = way_of(guest, has_cloud_init=_image(machine, ctx).has_cloud_init)
    recipe = _recipe(guest, machine, ctx, uuid=uuid, way=way, mounts=mounts)
    return Lowered(
        steps=(keys, TellGuest(recipe, ctx.paths.guest, ctx.paths.ssh, machine.source, "guest")),
        problems=tuple(_problems(guest, machine, recipe)),
    )


def lower_devices(machine: Machine, ctx: Context, steps: Lowered) -> Lowered:
    """What the guest reads the files of `steps` from. The disk is the last one: no other changes its place for it."""
    recipes = [step.first_boot for step in steps.steps if isinstance(step, TellGuest)]
    if not recipes:
        return Lowered()
    if recipes[0].way == "credentials":
        return Lowered(options=tuple(_credential(ctx, name) for name in recipes[0].credentials))
    return _seed(machine, ctx)


def way_of(guest: Guest, *, has_cloud_init: bool | None) -> Way:
    """How the guest is told: 'auto' is by cloud-init, which nearly every image has, unless this one is known not to."""
    if guest.via != "auto":
        return guest.via
    is_raw = any((guest.user_data, guest.network_config, guest.vendor_data))
    return "credentials" if has_cloud_init is False and not is_raw else "nocloud"


def _seed(machine: Machine, ctx: Context) -> Lowered:
    path = ctx.paths.guest_seed
    nodes = block_nodes(
        DISK,
        path,
        image_format="raw",
        is_cd=False,
        read_only=True,
        cache="writeback",
        aio="threads",
        discard="ignore",
        detect_zeroes="off",
        why=_WHY,
    )
    body = {"driver": ctx.virtio("virtio-blk"), "id": DISK, "drive": DISK}
    known = plan.Disk(id=DISK, node=DISK, path=path, format="raw", device="disk", read_only=True)
    part = Part(Seat.DISK, body, "guest", _WHY)
    return Lowered(options=(*nodes, *_hint(machine, ctx)), parts=(part,), disks=(known,))


def _hint(machine: Machine, ctx: Context) -> Iterator[Option]:
    """What lets cloud-init's detection, a generator with no time, find the disk even where udev has not seen it yet."""
    system = machine.smbios.system
    if ctx.platform != "microvm" and (system is None or system.serial is None):
        yield keyvals("smbios", None, {"type": 1, "serial": "ds=nocloud"}, why="guest: cloud-init need not search")


def _credential(ctx: Context, name: str) -> Option:
    return fw_cfg(name, ctx.paths.guest_credential(name), why=_WHY)


def _recipe(
    guest: Guest, machine: Machine, ctx: Context, *, uuid: str, way: Way, mounts: tuple[share.GuestMount, ...]
) -> FirstBoot:
    has_users = guest.user_data is None
    return FirstBoot(
        way=way,
        instance=uuid if guest.instance is None else f"{uuid}-{guest.instance}",
        hostname=guest.hostname or _hostname(ctx.name),
        users=tuple(_users(guest, ctx, _image(machine, ctx))) if has_users else (),
        keys=_keys(guest.ssh_keys, "guest.ssh_keys") if not has_users else (),
        packages=guest.packages,
        files=tuple(_files(guest)),
        run=guest.run,
        cards=tuple(_cards(guest, machine, ctx)) if guest.network_config is None else (),
        mounts=tuple(GuestMount(item.tag, item.fstype, item.directory, ",".join(item.options)) for item in mounts),
        autologin=login_of(machine, ctx) if guest.autologin else None,
        timezone=guest.timezone,
        locale=guest.locale,
        user_data=_file(guest.user_data, "guest.user_data"),
        network_config=_file(guest.network_config, "guest.network_config"),
        vendor_data=_file(guest.vendor_data, "guest.vendor_data"),
    )


def _file(path: str | None, key: str) -> Source | None:
    return None if path is None else Source("file", path, key)


def _hostname(name: str) -> str:
    """A machine's name as a host may be called."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")


def _caller(ctx: Context) -> str:
    return ctx.host.user if re.fullmatch(USER, ctx.host.user) else _FALLBACK_USER


def _users(guest: Guest, ctx: Context, image: ImageFacts) -> Iterator[GuestUser]:
    keys = _keys(guest.ssh_keys, "guest.ssh_keys")
    for index, user in enumerate(guest.users or (User(name=_caller(ctx), sudo=True),)):
        key = f"guest.users[{index}]"
        yield GuestUser(
            name=user.name,
            keys=keys if user.ssh_keys is None else _keys(user.ssh_keys, f"{key}.ssh_keys"),
            description=user.description,
            groups=user.groups,
            sudo=user.sudo,
            become=image.become,
            # Root is there already, and has one.
            shell=user.shell or (image.shell if user.name != "root" else None),
            password=_password(user, key),
            password_is_hash=user.password_hash is not None,
        )


def _keys(keys: tuple[str, ...] | None, key: str) -> tuple[Source, ...]:
    if keys is None:
        return (Source("own-keys", "", key),)
    return tuple(
        Source("text" if looks_like_key(item) else "file", item, f"{key}[{index}]") for index, item in enumerate(keys)
    )


def _password(user: User, key: str) -> Source | None:
    if user.password is not None:
        return _secret(user.password, f"{key}.password")
    if user.password_hash is None:
        return None
    if user.password_hash.value is not None:
        return Source("spec", "", f"{key}.password_hash")
    return _secret(user.password_hash, f"{key}.password_hash")


def _secret(secret: Secret | Hash, key: str) -> Source:
    if secret.file is not None:
        return Source("file", secret.file, f"{key}.file")
    return Source("env", secret.env or "", f"{key}.env")


def _files(guest: Guest) -> Iterator[GuestFile]:
    for index, file in enumerate(guest.files):
        key = f"guest.files[{index}]"
        content = Source("text", file.content or "", f"{key}.content")
        if file.source is not None:
            content = Source("file", file.source, f"{key}.source")
        user, _, group = file.owner.partition(":")
        yield GuestFile(file.path, content, file.mode.zfill(4), f"{user}:{group or user}")


def _cards(guest: Guest, machine: Machine, ctx: Context) -> Iterator[GuestCard]:
    """Every card that is plugged in anywhere; those that nothing is said of ask for an address."""
    given = dict(_assigned(guest, machine.networks))
    for index, network in enumerate(machine.networks):
        if network.type == "none" and index not in given:
            continue
        wish = given.get(index, Card())
        yield GuestCard(
            mac=network.mac or derived_mac(ctx.name, index),
            name=f"eth{index}",
            dhcp=wish.uses_dhcp,
            addresses=wish.addresses,
            gateways=wish.gateways,
            dns=wish.dns,
            search=wish.search,
            # Nobody need answer on the others, and a guest would wait for minutes.
            optional=index not in given and network.type not in {"user", "tap"},
        )


def _assigned(guest: Guest, networks: tuple[Network, ...]) -> Iterator[tuple[int, Card]]:
    ids = [network.device_id(index) for index, network in enumerate(networks)]
    for index, wish in enumerate(guest.network):
        if wish.card is None:
            yield index, wish
        elif wish.card in ids:
            yield ids.index(wish.card), wish


def _problems(guest: Guest, machine: Machine, recipe: FirstBoot) -> Iterator[Problem]:
    yield from _network_problems(guest, machine.networks)
    if guest.autologin and recipe.autologin is None:
        yield Problem("guest.autologin", "it is not known whom to log in", "'true'", "login = '...' beside it")
    if recipe.way == "credentials":
        for name in recipe.credentials:
            if name in machine.credentials:
                yield Problem(f"credentials.{name}", "is the credential that [guest] is told by", allowed="one of them")


def _network_problems(guest: Guest, networks: tuple[Network, ...]) -> Iterator[Problem]:
    ids = [network.device_id(index) for index, network in enumerate(networks)]
    seen: dict[int, int] = {}
    for index, wish in enumerate(guest.network):
        key = f"guest.network[{index}]"
        if wish.card is not None and wish.card not in ids:
            allowed = ", ".join(f"'{name}'" for name in ids) or "[[networks]]"
            yield Problem(f"{key}.card", "is no card of this machine", f"'{wish.card}'", allowed)
            continue
        if wish.card is None and index >= len(ids):
            yield Problem(key, f"the machine has {len(ids)} network cards", allowed="[[networks]]")
            continue
        place = index if wish.card is None else ids.index(wish.card)
        if place in seen:
            yield Problem(
                key, f"is about the same card as guest.network[{seen[place]}]", f"'{ids[place]}'", "another card"
            )
        seen[place] = index
