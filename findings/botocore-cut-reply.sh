#!/usr/bin/env bash
# To botocore, a reply that is cut is an empty answer, and a success.
# botocore 1.44.8, 2026-11-30. A server of ours on 127.0.0.1 stands in for AWS: it sends a JSON reply and its length, and
# closes the connection in the middle, as a proxy does that is restarted.
#
# Expected: a reply shorter than its Content-Length is a lost reply: tried again, three requests in all, then an error, as
#   when the connection is closed before the reply.
# Seen: one request, no error, and a result without any field. "Is this order known?" is answered by "no", a lookup in
#   DynamoDB by "no such item", and code that charges in that case charges again. With a checksum as DynamoDB sends it
#   (x-amz-crc32) the call is tried again, but if all replies are cut the result is empty and a success all the same; the
#   older retry mode, "legacy", raises an error. With botocore 1.40.0 and the same urllib3, which looks at the length
#   there, a cut reply was tried again, and then an error. Ask for a field that must be there before you believe an
#   empty answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/botocore-1.44.8
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q botocore==1.44.8 urllib3==2.8.0 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/lookup.py" <<'PYTHON'
import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

bodies = {
    "GetItem": {"Item": {"order": {"S": "1001"}, "charged": {"BOOL": True}}},
    "DescribeExecution": {"name": "order-1001", "status": "SUCCEEDED"},
    "SendMessage": {"MessageId": "1"},
}
sent = 0
bytes_left_out = 0
checksum = False


class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        global sent
        sent += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(bodies[self.headers["X-Amz-Target"].split(".")[1]]).encode()
        if bytes_left_out is None:
            return  # no reply at all
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if checksum:
            self.send_header("x-amz-crc32", str(zlib.crc32(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - bytes_left_out])

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def trial(name, service, call, left_out, mode=None, with_checksum=False):
    global sent, bytes_left_out, checksum
    sent, bytes_left_out, checksum = 0, left_out, with_checksum
    config = Config(retries={"mode": mode} if mode else None)
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = Session().create_client(service, "eu-west-1", endpoint_url=url, config=config, **keys)
    try:
        result = call(client)
        del result["ResponseMetadata"]
    except BotoCoreError as error:
        result = type(error).__name__
    print(f"{name}: requests {sent}, {result}", flush=True)


def get_item(client):
    return client.get_item(TableName="orders", Key={"order": {"S": "1001"}})


def describe(client):
    return client.describe_execution(executionArn="arn:aws:states:eu-west-1:123456789012:execution:orders:order-1001")


def send(client):
    return client.send_message(QueueUrl=f"{url}/orders", MessageBody="1001")


for name, left_out in (("whole", 0), ("lost", None), ("cut", 5)):
    trial(f"get_item, {name}", "dynamodb", get_item, left_out)
    trial(f"describe_execution, {name}", "stepfunctions", describe, left_out)
    trial(f"send_message, {name}", "sqs", send, left_out)
trial("get_item, cut, checksum", "dynamodb", get_item, 5, with_checksum=True)
trial("get_item, cut, checksum, legacy", "dynamodb", get_item, 5, "legacy", with_checksum=True)
PYTHON
cd "$folder"
export AWS_CONFIG_FILE=$folder/none AWS_SHARED_CREDENTIALS_FILE=$folder/none AWS_EC2_METADATA_DISABLED=true
timeout 100 "$venv/bin/python" lookup.py >seen 2>log || { cat log; exit 2; }
diff - seen <<'SEEN'
get_item, whole: requests 1, {'Item': {'order': {'S': '1001'}, 'charged': {'BOOL': True}}}
describe_execution, whole: requests 1, {'name': 'order-1001', 'status': 'SUCCEEDED'}
send_message, whole: requests 1, {'MessageId': '1'}
get_item, lost: requests 4, ConnectionClosedError
describe_execution, lost: requests 3, ConnectionClosedError
send_message, lost: requests 3, ConnectionClosedError
get_item, cut: requests 1, {}
describe_execution, cut: requests 1, {}
send_message, cut: requests 1, {}
get_item, cut, checksum: requests 4, {}
get_item, cut, checksum, legacy: requests 10, ChecksumError
SEEN
