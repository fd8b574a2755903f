"""The shop in PostgreSQL as it is run out there: poolers, few connections, rights, encodings, fail-overs, odd roles."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from conftest import make_order, write_orders
from postgres_server import PASSWORD, POOLER, PostgresServer, wait_for
from test_postgres import is_told
from test_shop_commands import refusal_of, run_here
from test_storage import NOBODY, in_another_users_name

from comparison.stage.processes import free_port
from shop.catalogue import CUSTOMERS, Customer
from shop.errors import ServiceUnavailable, StoreUnusable
from shop.ledger import read_ledger
from shop.orders import Item
from shop.shop import Shop
from shop.stores import storage
from shop.stores.location import PostgresUrl, parse_location

SERVICES = ("inventory", "payments", "notifications")
NAME = "Ærøskøbing ☕ 株式会社"
ORDERS = 40  # more than are in flight
LATIN_1 = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
SQL_ASCII = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
OF_ROLE = "ALTER ROLE of_a_test SET"
ONLY_READ = "default_transaction_read_only = on"
needs_pooler = pytest.mark.skipif(not POOLER.exists(), reason="not installed (Debian's package: pgbouncer)")
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'of_a_test'"


def of_database(*settings: str) -> tuple[str, ...]:
    return tuple(f"ALTER DATABASE of_a_test SET {setting}" for setting in settings)


def through(server: PostgresServer, url: PostgresUrl, port: int) -> PostgresUrl:
    """Return the URL of the same database behind another port."""
    return PostgresUrl(url.secret.replace(f":{server.port}", f":{port}"))


def sessions(server: PostgresServer) -> int:
    """Return how many sessions others have on the database of a test."""
    with server.connect() as operator:
        row = operator.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'of_a_test'").fetchone()
    assert row
    return int(row[0])


def run_many(
    server: PostgresServer, url: PostgresUrl, folder: Path, **settings: str
) -> tuple[int, set[str], list[str]]:
    """Process many orders at once; return the script's status, how the orders ended and how their attempts did."""
    orders = [make_order(f"{folder.name}-{number}", items=(Item("mug", 1, 5),)) for number in range(ORDERS)]
    file = write_orders(folder / "orders.jsonl", *orders)
    log = folder / "log"
    everything = server.url(database="of_a_test")
    options = ("--concurrency", "32", "--log", log, "--data", url)
    completed = run_here("order_processor.py", file, *options, settings=settings)
    lines = [line.split("\t") for line in completed.stdout.splitlines()]
    assert len(lines) == ORDERS, completed.stderr[-3000:]
    assert not is_told(completed.stdout + completed.stderr + log.read_text())
    return completed.returncode, {status for _, status, _ in lines}, read_outcomes(everything)


def read_outcomes(url: PostgresUrl) -> list[str]:
    return [attempt.outcome for attempt in read_ledger(url).attempts]


def process(url: PostgresUrl, order_id: str) -> None:
    """Take an order through its steps, twice: a repeat finds what the first one did."""
    with closing(Shop(url)) as shop:
        for _ in range(2):
            shop.inventory.validate_inventory(make_order(order_id))
            shop.payments.process_payment(make_order(order_id))
            shop.inventory.update_inventory(make_order(order_id))
            shop.notifications.send_confirmation(make_order(order_id))


@pytest.mark.parametrize(
    ("options", "statements", "environment", "setting"),
    [
        (SQL_ASCII, (), {"PGCLIENTENCODING": "SQL_ASCII"}, ""),
        ("", (), {"PGCLIENTENCODING": "LATIN1"}, ""),
        ("", (f"{OF_ROLE} client_encoding = 'SQL_ASCII'",), {}, ""),
        ("", of_database("client_encoding = 'WIN1252'"), {}, ""),
        ("", (), {}, "?client_encoding=SQL_ASCII"),
        ("", (), {"PGOPTIONS": "-c client_encoding=SQL_ASCII"}, ""),
    ],
)
def test_text_stays_text_whatever_the_encodings_of_database_role_and_environment(
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    statements: tuple[str, ...],
    environment: dict[str, str],
    setting: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with postgres.database(options, *statements) as url:
        url = PostgresUrl(url.secret + setting)
        process(url, "1")
        with closing(Shop(url)) as shop:
            shop.notifications.replace_customers([*CUSTOMERS, Customer("many", NAME, NAME)])
        with storage.read_only(url, "notifications") as connection:
            names = [row["name"] for row in connection.execute("SELECT * FROM customers WHERE name = ?", (NAME,))]
        shown = run_here("shop", "ledger", "--data", url)

    assert names == [NAME]
    assert (shown.returncode, "order 1" in shown.stdout) == (0, True), shown.stderr


@pytest.mark.parametrize("options", [LATIN_1, LATIN_1.replace("LATIN1", "EUC_JP")])
def test_a_database_that_cannot_hold_every_name_is_refused(postgres: PostgresServer, options: str) -> None:
    with postgres.database(options) as url:
        said = refusal_of("shop", "ledger", "--data", url)

    assert f"its encoding is {options.split(chr(39))[1]}, and a shop needs UTF8" in said


def busy(shop: Shop, prefix: str, at_once: int = 6) -> None:
    """Use several sessions."""
    with ThreadPoolExecutor(at_once) as executor:
        list(executor.map(shop.payments.process_payment, [make_order(f"{prefix}-{n}") for n in range(2 * at_once)]))


@pytest.mark.parametrize(
    ("who", "are_sessions_ended"), [("DATABASE of_a_test", True), ("ROLE of_a_test", True), ("ROLE of_a_test", False)]
)
def test_a_shop_goes_on_by_itself_when_its_database_may_be_written_again(
    postgres: PostgresServer, who: str, are_sessions_ended: bool
) -> None:
    with postgres.database() as url, closing(Shop(url)) as shop:
        busy(shop, "before")
        postgres.operate(f"ALTER {who} SET {ONLY_READ}")
        if are_sessions_ended:
            postgres.operate(END_SESSIONS)
            for number in range(3):
                with pytest.raises(ServiceUnavailable, match="the database answers: it is read-only"):
                    shop.payments.process_payment(make_order(f"during-{number}"))
        postgres.operate(f"ALTER {who} RESET default_transaction_read_only")
        busy(shop, "after")

        assert set(read_outcomes(url)) == {"ok"}


@needs_pooler
def test_a_shop_goes_on_also_where_a_pooler_keeps_sessions_that_were_begun_read_only(postgres: PostgresServer) -> None:
    with postgres.database() as url, postgres.pooler("pool_mode = transaction", "default_pool_size = 4") as port:
        pooled = through(postgres, url, port)
        with closing(Shop(pooled)) as shop:
            postgres.operate(f"ALTER DATABASE of_a_test SET {ONLY_READ}", END_SESSIONS)
            with pytest.raises(ServiceUnavailable, match="it is read-only"):
                shop.payments.process_payment(make_order("during"))
            others = [psycopg.connect(pooled.secret) for _ in range(3)]
            for other in others:
                other.execute("SELECT 1")
            for other in others:
                other.close()
            postgres.operate("ALTER DATABASE of_a_test RESET default_transaction_read_only")
            shop.payments.process_payment(make_order("first-after"))
            busy(shop, "after")

        assert set(read_outcomes(url)) == {"ok"}


def test_a_session_of_a_standby_is_not_used_when_the_primary_is_elsewhere(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        Shop(url).close()
        with postgres.standby() as standby:
            here, there = (f"127.0.0.1:{port}" for port in (standby.port, postgres.port))
            follower = through(postgres, url, standby.port)
            both = PostgresUrl(url.secret.replace(there, f"{here},{there}") + "?target_session_attrs=read-write")
            process(both, "1")
            with pytest.raises(StoreUnusable, match="it is read-only"):
                Shop(follower)
            wait_for(lambda: len(read_ledger(follower).confirmations) == 1, "it follows")
            with closing(Shop(both)) as shop:
                busy(shop, "before")
                postgres.kill()
                standby.operate("SELECT pg_promote()")
                busy_again = shop.payments.process_payment(make_order("after"))
            charges = read_ledger(both).charges
        postgres.start()

    assert busy_again in [charge.transaction_id for charge in charges]


@pytest.mark.parametrize(
    ("program", "statements"),
    [("run_worker.py", of_database(ONLY_READ)), ("order_processor.py", (f"{OF_ROLE} {ONLY_READ}",))],
)
def test_a_database_that_is_read_only_at_the_start_is_answered_with_2_and_said(
    postgres: PostgresServer, program: str, statements: tuple[str, ...]
) -> None:
    with postgres.database() as url:
        Shop(url).close()
        postgres.operate(*statements)

        said = refusal_of(program, "--data", url)

    assert said == f"{Path(program).stem}: {url}: the database answers: it is read-only\n"


@pytest.mark.parametrize(
    ("granted", "revoked", "refused", "ledger_status"),
    [
        ("SELECT", "", "inventory (products, sales, sale_items, voids, attempts)", 0),
        ("SELECT, INSERT, UPDATE", "INSERT ON payments.voids", "payments (voids)", 0),
        ("SELECT, INSERT, UPDATE", "UPDATE ON notifications.attempts", "notifications (attempts)", 0),
        ("SELECT, INSERT, UPDATE", "SELECT ON inventory.products", "inventory (products)", 2),
    ],
)
def test_a_worker_whose_user_lacks_a_right_to_a_table_ends_with_2_and_names_it(
    postgres: PostgresServer, granted: str, revoked: str, refused: str, ledger_status: int
) -> None:
    with postgres.database() as url:
        Shop(postgres.url(database="of_a_test")).close()
        in_schemas(
            postgres,
            "GRANT USAGE ON SCHEMA {} TO of_a_test",
            f"GRANT {granted} ON ALL TABLES IN SCHEMA {{}} TO of_a_test",
        )
        if revoked:
            postgres.operate(f"REVOKE {revoked} FROM of_a_test", database="of_a_test")

        said = refusal_of("run_worker.py", "--data", url)
        shown = run_here("shop", "ledger", "--data", url)

    assert f"the user may not write to the schema {refused}: SELECT, INSERT and UPDATE are needed" in said
    assert shown.returncode == ledger_status


def test_a_user_who_may_not_use_a_schema_is_told_so_by_every_program(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        Shop(postgres.url(database="of_a_test")).close()

        said = [refusal_of("run_worker.py", "--data", url), refusal_of("shop", "ledger", "--data", url)]

    assert all("permission denied for schema inventory" in sentence for sentence in said), said


def test_a_view_may_stand_for_a_table(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        Shop(url).close()
        postgres.operate(
            "ALTER TABLE inventory.products RENAME TO goods",
            "CREATE VIEW inventory.products AS SELECT * FROM inventory.goods",
            "ALTER VIEW inventory.products OWNER TO of_a_test",
            database="of_a_test",
        )

        process(url, "1")

        assert set(read_outcomes(url)) == {"ok"}


def in_schemas(server: PostgresServer, *statements: str) -> None:
    """Carry out statements for each schema, as the user whose the server is."""
    for statement in statements:
        server.operate(*(statement.format(service) for service in SERVICES), database="of_a_test")


@needs_pooler
@pytest.mark.parametrize(("mode", "size"), [("session", 2), ("transaction", 2), ("transaction", 5)])
def test_a_pooler_may_stand_before_the_database(postgres: PostgresServer, tmp_path: Path, mode: str, size: int) -> None:
    with (
        postgres.database() as url,
        postgres.pooler(f"pool_mode = {mode}", f"default_pool_size = {size}", "max_client_conn = 200") as port,
    ):
        status, ended, attempts = run_many(postgres, through(postgres, url, port), tmp_path)

        ledger = read_ledger(url)

    assert (status, ended, set(attempts)) == (0, {"completed"}, {"ok"})
    assert len(ledger.sales) == len(ledger.charges) == len(ledger.confirmations) == ORDERS
    assert ledger.stock["mug"].now == 100 - ORDERS


@needs_pooler
def test_a_pooler_that_parts_transactions_is_refused(postgres: PostgresServer) -> None:
    with postgres.database() as url, postgres.pooler("pool_mode = statement") as port:
        said = refusal_of("run_worker.py", "--data", through(postgres, url, port))

    assert "transaction blocks not allowed in statement pooling mode" in said


@pytest.mark.parametrize(("limit", "settings"), [(2, {}), (5, {}), (3, {"SHOP_CONNECTIONS": "2"})])
def test_orders_wait_where_the_user_has_few_connections(
    postgres: PostgresServer, tmp_path: Path, limit: int, settings: dict[str, str]
) -> None:
    with postgres.database("", f"ALTER ROLE of_a_test CONNECTION LIMIT {limit}") as url:
        status, ended, attempts = run_many(postgres, url, tmp_path, **settings)

    assert (status, ended, set(attempts)) == (0, {"completed"}, {"ok"})


@pytest.mark.parametrize("connections", [1, 3])
def test_a_process_opens_no_more_connections_than_it_may(
    postgres: PostgresServer, tmp_path: Path, connections: int
) -> None:
    with postgres.database() as url, closing(Shop(PostgresUrl(url.secret, connections))) as shop:
        busy(shop, "many", at_once=12)
        shop.inventory.validate_inventory(make_order())

        assert sessions(postgres) == connections
        assert set(read_outcomes(url)) == {"ok"}


@pytest.mark.parametrize("number", ["0", "-1", "many", "", "1.5", "10000"])
def test_a_number_of_connections_that_is_none_is_bad_usage(tmp_path: Path, number: str) -> None:
    said = refusal_of("shop", "ledger", "--data", tmp_path / "shop", settings={"SHOP_CONNECTIONS": number})

    assert "SHOP_CONNECTIONS: must be a whole number" in said
    assert not (tmp_path / "shop").exists()


NOT_OWNER = "ALTER DATABASE of_a_test OWNER TO shop"


@pytest.mark.parametrize("made", ["schemas", "tables", "one table"])
def test_what_somebody_else_made_is_used_and_the_right_to_make_it_not_asked_for(
    postgres: PostgresServer, made: str
) -> None:
    with postgres.database("", NOT_OWNER) as url:
        owner = postgres.url(database="of_a_test")
        if made == "tables":
            Shop(owner).close()
        else:
            in_schemas(postgres, "CREATE SCHEMA {}")
        rights = ("USAGE",) if made == "tables" else ("USAGE", "CREATE")
        in_schemas(postgres, *(f"GRANT {right} ON SCHEMA {{}} TO of_a_test" for right in rights))
        if made == "one table":
            in_schemas(postgres, "CREATE TABLE {}.voids (order_id TEXT PRIMARY KEY, digest TEXT, rowid SERIAL)")
            in_schemas(postgres, "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {} TO of_a_test")
        in_schemas(postgres, "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {} TO of_a_test")

        process(url, "1")
        with closing(Shop(url)) as shop:
            shop.payments.void_charge(make_order("2"))

        assert set(read_outcomes(url)) == {"ok"}


def test_a_user_who_may_make_nothing_in_an_empty_database_is_told_so(postgres: PostgresServer) -> None:
    with postgres.database("", NOT_OWNER) as url:
        said = refusal_of("run_worker.py", "--data", url)

    assert "permission denied for database of_a_test" in said


def settings_of(server: PostgresServer) -> str:
    """Return the settings of the test's database as libpq's `key=value`."""
    return f"host=127.0.0.1 port={server.port} dbname=of_a_test user=of_a_test"


@pytest.mark.parametrize(
    "form",
    ["quoted", "bare", "spaced", "service", "service in a url", "password of a file", "password of the environment"],
)
def test_a_database_may_be_named_as_libpq_names_it(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    settings = settings_of(postgres)
    (tmp_path / "services").write_text("[shop]\n" + f"{settings} password={PASSWORD}".replace(" ", "\n") + "\n")
    (tmp_path / "passwords").write_text(f"*:*:*:*:{PASSWORD}\n")
    (tmp_path / "passwords").chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.chdir(tmp_path)
    data = {
        "quoted": f"{settings} password='{PASSWORD}'",
        "bare": f"password={PASSWORD} {settings}",
        "spaced": f" {settings.replace('=', ' = ')}  password = '{PASSWORD}' ",
        "service": "service=shop",
        "service in a url": "postgresql://?service=shop",
        "password of a file": f"{settings} passfile={tmp_path / 'passwords'}",
        "password of the environment": settings,
    }[form]
    if form == "password of the environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    before = sorted(tmp_path.iterdir())

    with postgres.database() as url:
        completed = run_here("order_processor.py", "--data", data, "--log", tmp_path / "log")
        confirmed = len(read_ledger(url).confirmations)

    assert (completed.returncode, confirmed) == (0, 1), completed.stderr
    assert not is_told(completed.stdout + completed.stderr + (tmp_path / "log").read_text())
    assert not is_told(str(parse_location(data)) + repr(parse_location(data)))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "log", *before]


@pytest.mark.parametrize(
    "data",
    [
        "password=plum",
        "shop password=plum",
        "password=plum turnip host=db",
        "host=db password='plum",
        "host=db dbname=postgresql://u:plum@db/shop",
        "Server=db;Password=plum",
        "User Id=shop;Pwd=plum",
        "host: db, password: plum",
        "password:plum",
        "shop:plum@db/shop",
        "//shop:plum@db/shop",
        "jdbc:postgresql://db/shop?password=plum",
        "postgresql:/shop:plum@db/shop",
        "postgresql:shop:plum@db",
        "a=b",
        "host=db sslword=plum",
        "service=nowhere",
        "localhost:5432/shop",
        "127.0.0.1:5432",
        "db.example:5432/shop?sslmode=require",
        "a:1,b:2/shop",
        "[::1]:5432/shop",
        "//host:5432/shop",
        "postgresql://shop:plum@turnip@host/shop",
        "postgresql://shop:plum/turnip@host/shop",
        "postgresql://shop:plum?turnip@host/shop",
        "postgresql://shop:plum#turnip@host/shop",
        "postgresql://shop:plum",
        "postgresql+psycopg://shop:plum@host/shop",
        "POSTGRESQL://shop:plum@host/shop",
        "sqlite://plum",
    ],
)
def test_no_folder_is_made_of_what_looks_like_settings_a_url_or_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.chdir(tmp_path)

    said = refusal_of("shop", "ledger", "--data", data)

    assert "the URL of a shop must read" in said or data in ("host=db sslword=plum", "service=nowhere")
    assert not is_told(said)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "name",
    [
        "./a=b",
        "shops/run=3",
        "my-shop=3",
        "~/shop",
        "./passport=3",
        "/srv/pass=3",
        "./a:b@c",
        "./a:1",
        "/srv/a:1",
        "a:b",
    ],
)
def test_a_folder_may_have_an_equals_sign_or_a_colon_in_its_name(name: str) -> None:
    assert parse_location(name) == Path(name).expanduser()


@pytest.mark.parametrize("hosts", ["127.0.0.1:{0},127.0.0.1:{1}", "127.0.0.1:{0},127.0.0.1:{1},127.0.0.1:{0}"])
def test_several_hosts_that_are_all_down_are_told_in_one_sentence(hosts: str) -> None:
    address = hosts.format(free_port(), free_port())

    said = refusal_of("shop", "ledger", "--data", f"postgresql://shop:plum@{address}/shop")

    assert said.count("refused") == 1
    assert len(said) < 300
    assert not is_told(said)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_log_of_a_script_in_a_folder_that_is_not_its_users_goes_where_it_is_told(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not in pytest's folder, into which nobody else may look.
    with postgres.database() as url, tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own"
        own.mkdir()
        shutil.chown(own, NOBODY, NOBODY)
        Path(folder).chmod(0o755)
        monkeypatch.setattr("shop.terminal.options.DEFAULT_DIRECTORY", Path(folder) / "data")
        script = ("order_processor.py", "--data", url)

        refused = in_another_users_name(lambda: run_here(*script))
        logged = in_another_users_name(lambda: run_here(*script, "--log", own / "log"))

        assert "returncode=2" in refused
        assert "stdout=''" in refused
        assert "data'; say with --log FILE where it goes" in refused
        assert "returncode=0" in logged
        assert [path.name for path in own.iterdir()] == ["log"]
        assert len(read_ledger(url).confirmations) == 1


@pytest.mark.parametrize(
    "statements",
    [
        (
            *of_database("default_transaction_isolation = 'serializable'", "statement_timeout = '2s'"),
            *of_database("lock_timeout = '1s'"),
            f"{OF_ROLE} idle_session_timeout = '200ms'",
        ),
        tuple(
            f"{OF_ROLE} {setting}"
            for setting in (
                "search_path = nowhere, pg_catalog",
                "DateStyle = 'German, DMY'",
                "IntervalStyle = 'iso_8601'",
                "standard_conforming_strings = off",
                "backslash_quote = on",
                "idle_in_transaction_session_timeout = '5s'",
                "default_transaction_deferrable = on",
                "client_min_messages = 'debug1'",
                "transform_null_equals = on",
                "extra_float_digits = 0",
                "bytea_output = 'escape'",
                "TimeZone = 'Asia/Tokyo'",
            )
        ),
    ],
    ids=["limits", "formats"],
)
def test_a_shop_does_not_mind_what_is_set_for_the_database_or_the_user(
    postgres: PostgresServer, tmp_path: Path, statements: tuple[str, ...]
) -> None:
    with postgres.database("", *statements) as url:
        process(url, "1")
        status, ended, attempts = run_many(postgres, url, tmp_path)

    assert (status, ended, set(attempts)) == (0, {"completed"}, {"ok"})


def test_a_password_may_hold_any_character(postgres: PostgresServer) -> None:
    with postgres.database():
        for password in ("a b", "it's", r"back\slash", "p%40%", "ключ☕", "#?&=:/@[]", " x ", '"', "$HOME `x`"):
            literal, quoted = password.replace("'", "''"), password.replace("\\", r"\\").replace("'", r"\'")
            postgres.operate(f"ALTER ROLE of_a_test PASSWORD '{literal}'")

            by_url = run_here("shop", "ledger", "--data", postgres.url("of_a_test", password, database="of_a_test"))
            by_settings = run_here("shop", "ledger", "--data", f"{settings_of(postgres)} password='{quoted}'")

            assert (by_url.returncode, by_settings.returncode) == (0, 0), (password, by_url.stderr, by_settings.stderr)
