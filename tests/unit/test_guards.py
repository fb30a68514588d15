"""The guards: where the server may go, which files it may touch, what is sealed."""

import base64
import stat

import pytest

from headrace.domain.errors import Denied, Invalid, Misconfigured, Unavailable
from headrace.domain.ids import is_id, new_id
from headrace.domain.secret import Secret
from headrace.security.egress import Egress, parse_networks
from headrace.security.roots import Roots
from headrace.security.vault import Vault, master_key
from headrace.settings import from_env, size_bytes


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.1.1", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254",
     "fd00:ec2::254", "100.100.100.200"],
)  # fmt: skip
def test_metadata_and_link_local_are_always_refused(address):
    with pytest.raises(Denied):
        Egress(open_inside=True, allow=parse_networks("0.0.0.0/0,::/0")).judge("h", address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd12::1", "100.64.0.1"]
)
def test_inside_addresses_need_leave_on_the_network(address):
    with pytest.raises(Denied, match="private address"):
        Egress(open_inside=False).judge("h", address)
    Egress(open_inside=True).judge("h", address)
    network = f"{address}/128" if ":" in address else f"{address}/32"
    Egress(open_inside=False, allow=parse_networks(network)).judge("h", address)


def test_a_public_address_is_open_and_an_unknown_host_is_told():
    Egress(open_inside=False).judge("h", "93.184.216.34")
    with pytest.raises(Unavailable, match="cannot be found"):
        Egress(open_inside=True).address("no-such-host.invalid", 80)
    with pytest.raises(Invalid, match="HEADRACE_EGRESS_ALLOW"):
        parse_networks("10.0.0.0/99")


def test_roots_judge_by_real_path(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "a.csv").touch()
    (outside / "b.csv").touch()
    (root / "link.csv").symlink_to(outside / "b.csv")
    roots = Roots([root])
    assert roots.found(f"{root}/a*.csv") == [root / "a.csv"]
    for path in (f"{outside}/*.csv", f"{root}/link.csv", f"{root}/../outside/b.csv"):
        with pytest.raises(Denied):
            roots.found(path)
    with pytest.raises(Denied):
        roots.target(f"{root}/../outside/new.duckdb")
    assert Roots(None).found(f"{outside}/*.csv") == [outside / "b.csv"]


def test_a_name_that_looks_like_a_glob_is_found(tmp_path):
    (tmp_path / "a[1].csv").touch()
    assert Roots([tmp_path]).found(f"{tmp_path}/a[1].csv") == [tmp_path / "a[1].csv"]


def test_what_is_sealed_opens_only_for_its_owner_under_its_key():
    vault = Vault(bytes(32))
    sealed = vault.seal({"a": "x"}, "owner")
    assert b"x" not in sealed[12:13] or sealed != vault.seal({"a": "x"}, "owner")
    assert vault.open(sealed, "owner") == {"a": "x"}
    for other, owner in ((vault, "thief"), (Vault(bytes([1] * 32)), "owner")):
        with pytest.raises(Misconfigured, match="cannot be opened"):
            other.open(sealed, owner)


def test_the_master_key_is_the_owners_only_and_stays(tmp_path):
    key = master_key("", tmp_path)
    assert master_key("", tmp_path) == key
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    assert master_key(base64.b64encode(bytes(32)).decode(), tmp_path) == bytes(32)
    with pytest.raises(Invalid, match="32 bytes"):
        master_key("short", tmp_path)


def test_a_secret_does_not_show_itself():
    secret = Secret("hush")
    assert "hush" not in f"{secret!r} {secret} {[secret]}"
    assert secret.reveal() == "hush"


def test_ids_are_sorted_and_never_tie():
    ids = [new_id() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(is_id(one) for one in ids[:10])
    assert not is_id("x")


@pytest.mark.parametrize(
    "env",
    [{"HEADRACE_ADMIN_KEY": "short"}, {"HEADRACE_WORKERS": "0"}, {"HEADRACE_MEMORY": "lots"},
     {"HEADRACE_LEASE": "x"}, {"HEADRACE_MEMORY": "1MB"}],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_name(env):
    with pytest.raises(Invalid) as caught:
        from_env(env)
    assert caught.value.field == next(iter(env))


def test_sizes_are_powers_of_two():
    assert size_bytes("2GiB", "x") == size_bytes("2gb", "x") == 2 << 30
