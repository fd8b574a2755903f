#!/usr/bin/env bash
# The order as one task of Celery 5.7.0 with acks_late, over RabbitMQ instead of Redis, through the four trials of
# peers/trials.py. Needs RabbitMQ (apt-get install rabbitmq-server; the service that comes with it is not used). Run on
# 2026-11-30 with RabbitMQ 3.10.8.
#
# Expected: the broker gives a task to another worker as soon as the connection of the dead one is closed, without a
#   lease and without a setting; a task that kills its worker is tried on.
# Seen: that.
# Settings: https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q celery==5.7.0 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# The results go to files; what is for Redis alone goes. Validates twice.
sed 's|broker=os.environ\["REDIS_URL"\]|broker=os.environ["RABBITMQ_URL"]|
    s|backend=os.environ\["REDIS_URL"\]|backend="file://" + os.environ["SHOP_DATA"]|
    /broker_transport_options/d' "$findings/peers/celery_order.py" >"$folder/order.py"
sed '/^        shop.inventory.validate_inventory(order)/p' "$folder/order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$folder/order.py" "$folder/changed.py" --needs rabbitmq >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: SUCCESS
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: STARTED
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: SUCCESS
second process: the charge ran once; charged, mailed; the engine says: SUCCESS
SEEN
