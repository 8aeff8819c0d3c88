"""``[guest]``: what is asked for becomes a recipe and the devices it is read from, and no secret becomes either."""

from __future__ import annotations

import json
from typing import Any

import factory
import pytest

from kvmctl.compile import compile_plan
from kvmctl.plan.facts import ImageFacts
from kvmctl.plan.guest import FirstBoot, MakeKeys, Source, TellGuest
from kvmctl.plan.model import Plan
from kvmctl.spec.firstboot import way_of
from kvmctl.spec.load import absolute_text
from kvmctl.spec.whole import derived_uuid

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtDDLIXxnAgmyhMF3YXbS3PcyVBYCmwJo4a+HVDUz3c me"
HASH = "$6$saltsalt$Pq1rYb0Jk4m1v3bWq5uJ0w"
USER_NET = '[[networks]]\ntype = "user"\n'


def told(made: Plan) -> FirstBoot:
    (step,) = [step for step in made.steps if isinstance(step, TellGuest)]
    return step.first_boot


def test_a_machine_without_the_table_is_told_nothing() -> None:
    made = factory.plan()
    assert not [step for step in made.steps if isinstance(step, MakeKeys | TellGuest)]
    assert made.guest.user is None
    assert not factory.options(made, "smbios")


@pytest.mark.parametrize("text", ["guest = true", "[guest]"])
def test_an_empty_table_gives_the_caller_a_way_in(text: str) -> None:
    made = factory.plan(text, host=factory.host(user="alice"))
    (user,) = told(made).users
    assert (user.name, user.sudo) == ("alice", True)
    assert user.keys == (Source("own-keys", "", "guest.ssh_keys"),)
    assert made.guest.user == "alice"
    assert told(made).hostname == "web"


def test_false_leaves_it_out() -> None:
    assert factory.plan("guest = false") == factory.plan()


def test_a_caller_whose_name_no_guest_would_take_is_another_user() -> None:
    assert factory.plan("[guest]", host=factory.host(user="CORP\\alice")).guest.user == "user"


def test_the_first_user_is_the_one_to_log_in_as() -> None:
    text = "[[guest.users]]\nname = 'bob'\n[[guest.users]]\nname = 'eve'"
    assert factory.plan(text).guest.user == "bob"
    assert factory.plan(f"guest.login = 'eve'\n{text}").guest.user == "eve"


def test_consoles_log_in_whoever_logs_in_by_ssh() -> None:
    assert told(factory.plan("[guest]")).autologin is None
    text = "guest.autologin = true"
    assert told(factory.plan(text, host=factory.host(user="alice"))).autologin == "alice"
    assert told(factory.plan(f"{text}\n[[guest.users]]\nname = 'bob'")).autologin == "bob"
    assert told(factory.plan(f"{text}\nguest.login = 'eve'\nguest.user_data = 'x'")).autologin == "eve"


IMAGE = "[[disks]]\nsize = '1GiB'\n[[disks]]\nimage = 'acme'\n"


def of_image(text: str, **facts: Any) -> Plan:
    """The plan of a machine of an image of which `facts` are known."""
    host = factory.host(user="alice", images={"acme": ImageFacts(**facts)})
    return factory.plan(f"{text}\n{IMAGE}", host=host)


def test_users_get_the_shell_of_the_image_unless_they_are_given_one() -> None:
    users = "".join(f"[[guest.users]]\nname = '{name}'\n" for name in ("bob", "root"))
    made = told(of_image(f"{users}[[guest.users]]\nname = 'eve'\nshell = '/bin/zsh'", shell="/bin/ash"))
    assert [user.shell for user in made.users] == ["/bin/ash", None, "/bin/zsh"]
    assert told(of_image("guest = true", shell="/bin/ash")).users[0].shell == "/bin/ash"
    assert told(of_image("guest = true")).users[0].shell is None


def test_users_become_root_by_what_the_image_has() -> None:
    assert [user.become for user in told(of_image("guest = true", become="doas")).users] == ["doas"]
    assert [user.become for user in told(factory.plan("guest = true")).users] == ["sudo"]


def test_the_images_own_user_is_whom_to_log_in_as_where_the_spec_makes_none() -> None:
    raw = "guest.user_data = 'user-data'"
    assert of_image(raw, user="debian").guest.user == "debian"
    assert of_image(f"{raw}\nguest.login = 'eve'", user="debian").guest.user == "eve"
    assert of_image("", user="debian").guest.user == "debian"
    assert of_image("guest = true", user="debian").guest.user == "alice"
    assert of_image(raw, user="-o Proxy").guest.user is None
    assert told(of_image(f"{raw}\nguest.autologin = true", user="debian")).autologin == "debian"


def test_raw_user_data_does_not_say_whom_to_log_in_as() -> None:
    assert factory.plan("guest.user_data = 'user-data'").guest.user is None
    made = factory.plan("guest.user_data = 'user-data'\nguest.login = 'debian'")
    assert made.guest.user == "debian"
    assert told(made).user_data == Source("file", "/specs/user-data", "guest.user_data")
    assert told(made).users == ()


def test_the_seed_is_a_read_only_virtio_disk_after_all_others() -> None:
    made = factory.plan("[guest]\n[[disks]]\nsize = '1GiB'\n[[disks]]\nsize = '1GiB'")
    assert factory.device(made, "seed")["driver"] == "virtio-blk-pci"
    storage = factory.body(made, "blockdev", "seed-file")
    assert storage["filename"] == factory.PATHS.guest_seed
    assert storage["read-only"] is True
    assert [disk.id for disk in made.disks] == ["disk0", "disk1", "seed"]
    drives = [option.body["id"] for option in factory.options(made, "device") if "drive" in option.body]
    assert drives == ["disk0", "disk1", "seed"]
    assert "bootindex" not in factory.device(made, "seed")


def test_disks_stay_where_they_are_when_the_guest_is_told_something() -> None:
    disk = "[[disks]]\nsize = '1GiB'\n"
    assert factory.device(factory.plan(disk), "disk0") == factory.device(factory.plan(f"{disk}[guest]"), "disk0")


def test_the_serial_number_tells_cloud_init_not_to_search() -> None:
    assert factory.only(factory.plan("[guest]"), "smbios").body == {"type": 1, "serial": "ds=nocloud"}


def test_a_serial_number_of_ones_own_stays() -> None:
    option = factory.only(factory.plan("[guest]\n[smbios.system]\nserial = '4711'"), "smbios")
    assert option.body == {"type": 1, "serial": "4711"}


def test_a_microvm_has_the_seed_too() -> None:
    made = factory.plan("machine = 'microvm'\n[guest]")
    assert factory.device(made, "seed")["driver"] == "virtio-blk-device"
    assert not factory.options(made, "smbios")


def test_credentials_are_files_of_the_machine_never_words_of_the_command_line() -> None:
    made = factory.plan("guest.via = 'credentials'\n[[guest.users]]\nname = 'bob'\n[[guest.users]]\nname = 'root'")
    given = {str(option.body["name"]): option.body["file"] for option in factory.options(made, "fw_cfg")}
    names = ("sysusers.extra", "tmpfiles.extra", "ssh.authorized_keys.root", "kvmctl.first-boot")
    assert given == {f"opt/io.systemd.credentials/{name}": f"{factory.PATHS.guest}/{name}" for name in names}
    assert not any(disk.id == "seed" for disk in made.disks)
    assert max(map(len, given)) <= 55, "more than a fw_cfg file's name has"


def test_keys_are_made_before_they_are_told() -> None:
    keys, tell = [step for step in factory.plan("[guest]").steps if isinstance(step, MakeKeys | TellGuest)]
    assert keys == MakeKeys(factory.PATHS.ssh, "kvmctl-web", "guest")
    assert isinstance(tell, TellGuest)
    assert (tell.directory, tell.ssh) == (factory.PATHS.guest, factory.PATHS.ssh)


def test_what_is_wrong_is_said_before_a_disk_is_made() -> None:
    kinds = [type(step).__name__ for step in factory.steps(factory.plan("[guest]\n[[disks]]\nsize = '1GiB'"))]
    assert kinds == ["MakeKeys", "TellGuest", "CreateImage"]


def test_the_instance_is_the_machine_and_changes_only_when_asked() -> None:
    assert told(factory.plan("[guest]")).instance == derived_uuid("web")
    assert told(factory.plan("[guest]\nhostname = 'x'\nrun = ['true']")).instance == derived_uuid("web")
    assert told(factory.plan("guest.instance = '2'")).instance == f"{derived_uuid('web')}-2"


@pytest.mark.parametrize(("name", "hostname"), [("web", "web"), ("Web_1.a", "Web-1-a"), ("a-", "a")])
def test_a_host_is_called_like_its_machine(name: str, hostname: str) -> None:
    made = compile_plan(
        factory.machine("[guest]"), host=factory.HOST, qemu=factory.QEMU, paths=factory.PATHS, name=name
    )
    assert told(made).hostname == hostname


def test_no_secret_is_in_the_plan() -> None:
    text = f"""
[[guest.users]]
name = "a"
password_hash = "{HASH}"
[[guest.users]]
name = "b"
password_hash = {{ value = "{HASH}" }}
[[guest.users]]
name = "c"
password = {{ env = "C" }}
[[guest.users]]
name = "d"
password_hash = {{ file = "hash" }}
"""
    made = factory.plan(text)
    assert HASH not in made.dumps()
    assert HASH not in json.dumps(made.spec)
    assert [user.password for user in told(made).users] == [
        Source("spec", "", "guest.users[0].password_hash"),
        Source("spec", "", "guest.users[1].password_hash"),
        Source("env", "C", "guest.users[2].password.env"),
        Source("file", "/specs/hash", "guest.users[3].password_hash.file"),
    ]
    assert [user.password_is_hash for user in told(made).users] == [True, True, False, True]


def test_a_password_written_in_a_spec_is_refused_and_not_quoted() -> None:
    (problem,) = factory.rejected("[[guest.users]]\nname = 'a'\npassword = 'hunter2'")
    assert problem == "guest.users[0].password: is given by exactly one of file and env"


def test_a_plan_with_a_guest_survives_json() -> None:
    made = factory.plan(
        f"[guest]\nrun = ['a b', ['c', 'd']]\nssh_keys = ['{KEY}', 'x.pub']\n{USER_NET}"
        "[[guest.files]]\npath = '/a'\ncontent = 'b'"
    )
    assert Plan.loads(made.dumps()) == made


def test_a_key_is_told_from_the_path_of_one() -> None:
    (user,) = told(factory.plan(f"[guest]\nssh_keys = ['{KEY}', 'my.pub']")).users
    assert user.keys == (
        Source("text", KEY, "guest.ssh_keys[0]"),
        Source("file", "/specs/my.pub", "guest.ssh_keys[1]"),
    )


def test_paths_of_keys_are_made_absolute_when_a_spec_moves() -> None:
    moved = absolute_text(f"guest.ssh_keys = ['./a.pub', '{KEY}']", "/home/me")
    assert moved == f"guest.ssh_keys = [\"/home/me/a.pub\", '{KEY}']"


def test_text_is_a_command_for_the_shell_and_a_list_is_words() -> None:
    made = told(factory.plan("guest.run = ['echo $HOME', ['touch', '/a b']]"))
    assert made.run == (("sh", "-c", "echo $HOME"), ("touch", "/a b"))


@pytest.mark.parametrize(
    ("text", "has_cloud_init", "way"),
    [
        ("[guest]", None, "nocloud"),
        ("[guest]", True, "nocloud"),
        ("[guest]", False, "credentials"),
        ("guest.via = 'nocloud'", False, "nocloud"),
        ("guest.via = 'credentials'", True, "credentials"),
        ("guest.vendor_data = 'x'", False, "nocloud"),
    ],
)
def test_auto_goes_by_what_is_known_of_the_image(text: str, has_cloud_init: bool | None, way: str) -> None:
    guest = factory.machine(text).guest
    assert guest is not None
    assert way_of(guest, has_cloud_init=has_cloud_init) == way


def cards(text: str) -> list[dict[str, Any]]:
    return [
        {name: getattr(card, name) for name in ("mac", "dhcp", "optional")} | {"addresses": card.addresses}
        for card in told(factory.plan(text)).cards
    ]


def test_every_card_asks_for_an_address_unless_told_otherwise() -> None:
    text = (
        "[guest]\n[[networks]]\ntype = 'user'\nmac = '52:54:00:00:00:01'\n"
        "[[networks]]\ntype = 'none'\n"
        "[[networks]]\ntype = 'stream'\nserver = true\naddress = '127.0.0.1:5000'\nmac = '52:54:00:00:00:03'\n"
    )
    first, third = cards(text)
    assert first == {"mac": "52:54:00:00:00:01", "dhcp": True, "optional": False, "addresses": ()}
    assert third == {"mac": "52:54:00:00:00:03", "dhcp": True, "optional": True, "addresses": ()}


def test_a_card_is_named_by_its_id_and_found_by_its_address() -> None:
    text = (
        "[[networks]]\ntype = 'user'\n[[networks]]\ntype = 'user'\nid = 'lan'\nmac = '52:54:00:00:00:02'\n"
        "[[guest.network]]\ncard = 'lan'\naddresses = ['10.0.0.2/24']\ngateways = ['10.0.0.1']\n"
    )
    first, second = told(factory.plan(text)).cards
    assert (first.dhcp, first.name) == (True, "eth0")
    assert (second.mac, second.name, second.dhcp) == ("52:54:00:00:00:02", "eth1", False)
    assert second.addresses == ("10.0.0.2/24",)


def test_shares_that_say_where_are_mounted_there() -> None:
    shared = "[[shares]]\npath = '/src'\nmount = '/mnt/src'\ndriver = '9p'\nread_only = true\n"
    text = f"[guest]\n{shared}[[shares]]\npath = '/x'\ndriver = '9p'"
    (mount,) = told(factory.plan(text)).mounts
    assert (mount.tag, mount.type, mount.path) == ("share0", "9p", "/mnt/src")
    assert mount.options.startswith("ro,trans=virtio,")
