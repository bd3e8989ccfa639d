import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncpg
import pytest

from server.cli.data import import_file
from server.domain import ItemId, TenantId, UserId
from server.embedded import Parts
from server.errors import InvalidFieldError, UnavailableError
from server.store import Database
from server.store.items import get_item
from server.store.profiles import get_profile
from server.stream import Invalidations, connect
from tests.fixtures_store import count_items

Aisle = Callable[..., "subprocess.CompletedProcess[str]"]
SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def write(folder: Path, name: str, *lines: str) -> Path:
    """Returns the path of a file with these lines."""
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines))
    return path


async def nothing_to_forget(_tenant_id: TenantId, _users: Sequence[UserId]) -> None:
    """Stands where no server caches profiles."""


async def count_events(database: Database, tenant_id: TenantId) -> int:
    """Returns the tenant's rows in events."""
    async with database.tenant(tenant_id) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM events"))


async def test_bad_rows_are_listed_and_good_ones_imported(aisle: Aisle, database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """Each bad row is in FILE.rejected.jsonl with its line and reason, and every good row is in; of one id the last counts."""
    path = write(
        tmp_path,
        "items.csv",
        "item_id,title,price,categories,colour",
        "a,First,1,X|Y,red",
        ",No id,1,X,red",
        "b,Bad price,NaN,X,red",
        f"{'c' * 257},Long id,1,X,red",
        "d,Too,many,fields,in,here",
        'e,"Open quote,1,X,red',
        "a,Second,2,X,red",
        "f,Good,,,",
    )
    done = aisle("import", "items", str(path), "--tenant", tenant_id, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["rejected"], report["counts"]) == (3, 5, {"created": 2, "updated": 0, "unchanged": 0})
    assert report["unread_columns"] == ["colour"]
    rejected = [json.loads(line) for line in (tmp_path / "items.csv.rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"].split(":")[0].split(" ")[0]) for row in rejected] == [
        (3, "item_id"),
        (4, "price"),
        (5, "item_id"),
        (6, "the"),
        (7, "the"),
    ]
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == 2
        assert (await get_item(connection, ItemId("a"))).item.title == "Second"


async def test_the_list_of_bad_rows_goes_here_if_the_folder_is_read_only(aisle: Aisle, tenant_id: TenantId, tmp_path: Path) -> None:
    """Where FILE's folder is read-only the list lies in the current folder, and the command says so; the next clean run removes it."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    write(folder, "items.csv", "item_id,title", "a,")
    folder.chmod(0o555)
    done = aisle("import", "items", str(folder / "items.csv"), "--tenant", tenant_id)
    assert done.returncode == 1
    assert f"bad rows: {tmp_path / 'cwd' / 'items.csv.rejected.jsonl'}" in done.stderr
    assert "no row could be imported" in done.stderr
    assert (tmp_path / "cwd" / "items.csv.rejected.jsonl").exists()
    assert [path.name for path in folder.iterdir()] == ["items.csv"]
    (folder / "items.csv").write_text("item_id,title\na,A\n")
    assert aisle("import", "items", str(folder / "items.csv"), "--tenant", tenant_id).returncode == 0
    assert not (tmp_path / "cwd" / "items.csv.rejected.jsonl").exists()


async def test_events_imported_twice_count_once(database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """Without event ids, equal rows of one file are events of their own, and a second import of the file adds none."""
    path = write(
        tmp_path,
        "events.csv",
        "user_id,item_id,event_type,occurred_at",
        *("u1,i1,view,1388534400",) * 3,
        "u1,i2,view,2014-01-01T00:00:00Z",
        "u2,,page_view,1388534400.5",
        "u2,i1,view,not a time",
    )
    report = await import_file(database, nothing_to_forget, "events", path, tenant_id)
    assert (report.rows, report.rejected, report.counts) == (5, 1, {"counted": 5, "known": 0})
    report = await import_file(database, nothing_to_forget, "events", path, tenant_id)
    assert report.counts == {"counted": 0, "known": 5}
    assert await count_events(database, tenant_id) == 5
    async with database.tenant(tenant_id) as connection:
        profile = await get_profile(connection, tenant_id, UserId("u1"))
    assert profile is not None
    assert profile.engagement_history == {"view": 4}


async def test_profiles_that_an_import_changes_are_forgotten_by_servers(
    aisle: Aisle, parts: Parts, tenant_id: TenantId, tmp_path: Path
) -> None:
    """After an import, a server that cached a user's profile hears that it changed."""
    heard: asyncio.Queue[tuple[str, str, Sequence[str]]] = asyncio.Queue()
    client = connect(parts.redis_url, timeout_s=10)
    path = write(tmp_path, "events.csv", "user_id,item_id,event_type,occurred_at", "u1,i1,view,1388534400", "u2,i1,view,1388534400")
    async with Invalidations(client).listen(lambda *message: heard.put_nowait(message)):
        assert await asyncio.wait_for(heard.get(), 10) == ("", "", ())  # it listens now
        done = await asyncio.to_thread(aisle, "import", "events", str(path), "--tenant", tenant_id)
        assert done.returncode == 0, done.stderr
        assert await asyncio.wait_for(heard.get(), 10) == (tenant_id, "profile", ["u1", "u2"])
    await client.aclose()


async def test_users_get_their_stated_facts(database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """Imported traits are what the profile shows."""
    path = write(tmp_path, "users.jsonl", json.dumps({"user_id": "u1", "traits": {"guests": 80}, "event_date": "2027-06-05"}), "{", "[]")
    report = await import_file(database, nothing_to_forget, "users", path, tenant_id)
    assert (report.counts, report.rejected) == ({"created": 1, "updated": 0, "unchanged": 0}, 2)
    async with database.tenant(tenant_id) as connection:
        profile = await get_profile(connection, tenant_id, UserId("u1"))
    assert profile is not None
    assert profile.traits == {"guests": 80}


async def test_a_missing_tenant_is_made_and_said(aisle: Aisle, tenant_id: TenantId, tmp_path: Path) -> None:
    """Importing into a tenant that nobody created creates it; a name that is none is refused before anything is read."""
    path = write(tmp_path, "items.csv", "item_id,title", "a,A")
    done = aisle("import", "items", str(path), "--tenant", f"{tenant_id}-new")
    assert done.returncode == 0
    assert f"created tenant {tenant_id}-new" in done.stdout
    wrong = aisle("import", "items", str(path), "--tenant", "Not A Tenant")
    assert wrong.returncode == 1
    assert "not a tenant's name" in wrong.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.csv", "name,title\na,b\n", "has no column item_id"),
        ("items.csv", "", "has no column item_id, title"),
        ("items.xlsx", "PK", "does not end in"),
    ],
)
async def test_a_file_of_the_wrong_kind_is_refused(
    database: Database, tenant_id: TenantId, tmp_path: Path, name: str, content: str, message: str
) -> None:
    """A file that cannot be an import says what is wrong with it, and nothing is written."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidFieldError, match=message):
        await import_file(database, nothing_to_forget, "items", path, tenant_id)
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == 0


def test_a_file_that_is_not_there_is_wrong_usage(aisle: Aisle, tenant_id: TenantId) -> None:
    """A wrong path, or a folder, exits with 2."""
    assert aisle("import", "items", "no-such-file.csv", "--tenant", tenant_id).returncode == 2
    assert aisle("import", "items", ".", "--tenant", tenant_id).returncode == 2


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_import_is_continued_by_running_it_again(
    database: Database, tenant_id: TenantId, environment: dict[str, str], tmp_path: Path, ending: signal.Signals
) -> None:
    """Ctrl-C and kill -9 leave whole batches; a second run ends with every row once. Ctrl-C also says what to do."""
    lines = [f"e{n},u{n % 50},i{n},view,{1388534400 + n}" for n in range(8000)]
    path = write(tmp_path, "events.csv", "event_id,user_id,item_id,event_type,occurred_at", *lines)
    command = [sys.executable, "-m", "server", "import", "events", str(path), "--tenant", tenant_id]
    async with database.tenant(tenant_id) as blocker:
        # The third batch waits for this transaction.
        await blocker.execute("INSERT INTO event_keys (event_id) VALUES ('e5000')")
        process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
        while await count_events(database, tenant_id) < 4000:
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(ending)
        _, stderr = await process.communicate()
        if ending == signal.SIGINT:
            assert process.returncode == 1
            assert b"run the same command again" in stderr
        assert await count_events(database, tenant_id) == 4000
        await blocker.execute("DELETE FROM event_keys WHERE event_id = 'e5000'")
    report = await import_file(database, nothing_to_forget, "events", path, tenant_id)
    assert report.counts == {"counted": 4000, "known": 4000}


async def test_an_import_outlives_lost_connections(database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """When the database drops every connection in the middle, as it does when it restarts, the import goes on and loses nothing."""
    rows = 10_000
    path = write(tmp_path, "items.csv", "item_id,title", *(f"i{n},Title {n}" for n in range(rows)))
    importing = asyncio.create_task(import_file(database, nothing_to_forget, "items", path, tenant_id))
    for _ in range(3):
        await asyncio.sleep(0.1)
        admin = await asyncpg.connect(database._url)
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aisle'")
        await admin.close()
    report = await importing
    assert report.rows == rows
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == rows


async def test_a_full_disk_ends_the_import_with_one_line(
    database: Database, tenant_id: TenantId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the database cannot write, the error says so and how far the import came; no half of a batch is in."""
    monkeypatch.setattr("server.cli.data._RETRIES_S", (0.01,))
    async with database.system() as connection:
        # The third batch meets what Postgres raises when its disk is full.
        await connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.tenant_id = '{tenant_id}' AND NEW.item_id = 'i4500' THEN RAISE 'no space left' USING ERRCODE = 'disk_full'; END IF; "
            "RETURN NEW; END $$; CREATE TRIGGER full_disk BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
    path = write(tmp_path, "items.csv", "item_id,title", *(f"i{n},T" for n in range(6000)))
    try:
        with pytest.raises(UnavailableError, match=r"disk is full.*4000 rows are in, run the same command again"):
            await import_file(database, nothing_to_forget, "items", path, tenant_id)
    finally:
        async with database.system() as connection:
            await connection.execute("DROP FUNCTION full_disk() CASCADE")
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == 4000
    report = await import_file(database, nothing_to_forget, "items", path, tenant_id)
    assert report.counts == {"created": 2000, "updated": 0, "unchanged": 4000}


@pytest.mark.skipif(not (SHARED / "yelp" / "items.csv").exists(), reason="the research data are not beside the repository")
async def test_real_vendors_import(database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """All of Yelp's vendors but the one without a title get in, and a second import finds nothing to do."""
    path = tmp_path / "items.csv"
    path.symlink_to(SHARED / "yelp" / "items.csv")
    report = await import_file(database, nothing_to_forget, "items", path, tenant_id)
    assert (report.counts["created"], report.rejected) == (20_032, 1)
    report = await import_file(database, nothing_to_forget, "items", path, tenant_id)
    assert report.counts["unchanged"] == 20_032
