import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from server.domain import TenantId
from server.store import Database
from server.store.aws_filters import get_filter
from server.store.keys import signing_key

Aisle = Callable[..., "subprocess.CompletedProcess[str]"]

GOOD = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("purchase")'
BAD = "INCLUDE ItemID WHERE Interactions.PRICE > 5"


@pytest.mark.parametrize("lines", [False, True])
async def test_filters_come_along_and_those_that_cannot_are_named(
    aisle: Aisle,
    database: Database,
    tenant_id: TenantId,
    tmp_path: Path,
    lines: bool,  # noqa: FBT001
) -> None:
    """What describe-filter printed is imported, as a list or by line; a filter that cannot be expressed is named with the reason."""
    described = [{"filter": {"name": "unbought", "filterExpression": GOOD}}, {"name": "dear", "filterExpression": BAD}]
    file = tmp_path / "filters.json"
    file.write_text("\n".join(map(json.dumps, described)) if lines else json.dumps(described))
    done = aisle("import", "aws-filters", str(file), "--tenant", tenant_id)
    assert (done.returncode, done.stdout) == (0, "1 imported, 1 rejected\n")
    assert "dear: filter: Interactions.PRICE cannot be expressed" in done.stderr
    rejected = json.loads((tmp_path / "filters.json.rejected.jsonl").read_text())
    assert (rejected["name"], rejected["filterExpression"]) == ("dear", BAD)
    async with database.tenant(tenant_id) as connection:
        assert await get_filter(connection, "unbought") == GOOD
        assert await get_filter(connection, "dear") is None


def test_files_that_hold_no_filter_say_what_to_bring(aisle: Aisle, tenant_id: TenantId, tmp_path: Path) -> None:
    """A file without expressions, as list-filters prints, is refused with the command that has them; one of bad filters alone fails."""
    file = tmp_path / "filters.json"
    file.write_text(json.dumps([{"name": "a", "filterArn": "x"}]))
    refused = aisle("import", "aws-filters", str(file), "--tenant", tenant_id)
    assert refused.returncode == 1
    assert "describe-filter" in refused.stderr
    file.write_text(json.dumps([{"name": "a", "filterExpression": BAD}]))
    assert aisle("import", "aws-filters", str(file), "--tenant", tenant_id).returncode == 1


async def test_a_key_that_signs_is_printed_with_its_credentials(aisle: Aisle, database: Database, tenant_id: TenantId) -> None:
    """`keys create` and `keys rotate` print an access key id and secret for a key with the scope `aws`, on stderr, and for no other."""
    created = aisle("keys", "create", "--tenant", tenant_id, "--scopes", "events,aws")
    printed = dict(line.split("=", 1) for line in created.stderr.splitlines() if line.startswith("AWS_"))
    found = await signing_key(database, printed["AWS_ACCESS_KEY_ID"])
    assert found is not None
    assert found[0] == printed["AWS_SECRET_ACCESS_KEY"]
    assert found[1].scopes == {"events", "aws"}
    rotated = aisle("keys", "rotate", found[1].key_id, "--tenant", tenant_id, "--overlap-days", "0")
    replacing = dict(line.split("=", 1) for line in rotated.stderr.splitlines() if line.startswith("AWS_"))
    assert await signing_key(database, printed["AWS_ACCESS_KEY_ID"]) is None
    again = await signing_key(database, replacing["AWS_ACCESS_KEY_ID"])
    assert again is not None
    assert (again[0], again[1].scopes) == (replacing["AWS_SECRET_ACCESS_KEY"], found[1].scopes)
    assert "AWS_" not in aisle("keys", "create", "--tenant", tenant_id, "--scopes", "admin").stderr
