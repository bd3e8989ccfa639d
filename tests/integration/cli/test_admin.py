import json
import subprocess
from collections.abc import Callable

from server.domain import TenantId
from server.store import Database
from server.store.keys import authenticate

Aisle = Callable[..., "subprocess.CompletedProcess[str]"]


async def test_a_key_from_the_command_line_works_until_it_is_revoked(aisle: Aisle, database: Database, tenant_id: TenantId) -> None:
    """Stdout of `keys create` is the key alone; `keys revoke` ends it; `keys list` shows it without its secret."""
    created = aisle("keys", "create", "--tenant", tenant_id, "--scopes", "events,recommend")
    key = created.stdout.strip()
    credential = await authenticate(database, key)
    assert credential is not None
    assert credential.scopes == {"events", "recommend"}
    assert key not in created.stderr
    listed = aisle("keys", "list", "--tenant", tenant_id, "--json")
    assert [row["key_id"] for row in json.loads(listed.stdout)] == [credential.key_id]
    assert key not in listed.stdout
    assert aisle("keys", "revoke", credential.key_id, "--tenant", tenant_id).returncode == 0
    assert await authenticate(database, key) is None


def test_tenants_are_created_once_and_listed(aisle: Aisle, tenant_id: TenantId) -> None:
    """A second creation, and a name that is none, fail with one line on stderr and exit code 1."""
    name = f"{tenant_id}-cli"
    assert aisle("tenants", "create", name, "--display-name", "CLI").returncode == 0
    again = aisle("tenants", "create", name)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"aisle: tenants/{name} exists; update it, or choose another id\n"
    wrong = aisle("tenants", "create", "Not A Tenant")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert name in [row["tenant_id"] for row in json.loads(aisle("tenants", "list", "--json").stdout)]


def test_wrong_usage_wrong_scope_and_unknown_tenant_say_what_to_do(aisle: Aisle, tenant_id: TenantId) -> None:
    """Usage errors exit 2; failures exit 1 and name the mend."""
    assert aisle("keys", "create", "--tenant", tenant_id).returncode == 2
    scope = aisle("keys", "create", "--tenant", tenant_id, "--scopes", "fly")
    assert scope.returncode == 1
    assert "choose from recommend, events" in scope.stderr
    unknown = aisle("keys", "list", "--tenant", "nobody")
    assert unknown.returncode == 1
    assert "aisle tenants create nobody" in unknown.stderr


def test_migrate_reports_what_it_applied(aisle: Aisle) -> None:
    """On a migrated database there is nothing to apply; on one that is not there, one line says so."""
    assert json.loads(aisle("migrate", "--json").stdout) == {"applied": []}
    gone = aisle("migrate", AISLE_DATABASE_URL="postgresql://x@127.0.0.1:1/none")
    assert gone.returncode == 1
    assert gone.stderr.startswith("aisle: database: cannot be reached")
    assert gone.stderr.count("\n") == 1


def test_a_tenants_lists_are_shaped_from_the_command_line(aisle: Aisle, tenant_id: TenantId) -> None:
    """What is set stays until it is set again or reset; `show` and `list` tell it, and what is left to the servers."""
    made = aisle("tenants", "shape", tenant_id, "--diversity", "0.2", "--vendor-cap", "3", "--booked-event-types", "", "--json")
    assert json.loads(made.stdout) == {"tenant_id": tenant_id, "shaping": {"diversity": 0.2, "vendor_cap": 3, "booked_event_types": ""}}
    changed = aisle("tenants", "shape", tenant_id, "--vendor-cap", "2", "--reset", "booked-event-types")
    assert {("vendor-cap", "2"), ("diversity", "0.2")} <= {tuple(line.split(maxsplit=1)) for line in changed.stdout.splitlines()}
    shown = aisle("tenants", "show", tenant_id).stdout
    assert shown.startswith(f"tenant {tenant_id}, created ")
    assert "as AISLE_EXPLORATION of the server" in shown
    assert json.loads(aisle("tenants", "show", tenant_id, "--json").stdout)["shaping"] == {"diversity": 0.2, "vendor_cap": 2}
    assert "diversity=0.2 vendor_cap=2" in aisle("tenants", "list").stdout
    assert json.loads(aisle("tenants", "shape", tenant_id, "--exploration", "0.1", "--reset", "all", "--json").stdout)["shaping"] == {
        "exploration": 0.1
    }
    unknown = aisle("tenants", "shape", "nobody", "--diversity", "0.2")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "aisle tenants create nobody" in unknown.stderr
