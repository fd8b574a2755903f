#!/usr/bin/env bash
# stripe-python retries a lost reply, unless it is called in the way that its pages recommend.
# stripe 16.1.0 (Python), 2026-11-30. A server of ours on 127.0.0.1 stands in for Stripe's.
#
# Expected: `stripe.max_network_retries` is 2, so a charge whose reply is lost is sent three times with one idempotency
#   key, by StripeClient as by the older module; a rate limit (429) is retried, and half a reply is a lost one.
# Seen: StripeClient sends it once, unless it is given `max_network_retries` itself; the module's setting does not
#   reach it, at 2 as at 5. Its page says that they can be
#   enabled, the module has them: who changes to the client loses them. Where there are retries the key
#   is one. A 429 is not retried; half a reply is, or not, by the HTTP library underneath: httpx, not requests.
# Settings: https://github.com/stripe/stripe-python#configuring-automatic-retries
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/stripe-16.1.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q stripe==16.1.0 requests==2.34.2 httpx==0.28.1 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/charge.py" <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stripe

keys = []
reply = ""


class Bank(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        keys.append(self.headers["Idempotency-Key"])
        if reply == "lost":
            pass  # the charge is made, and the connection closed
        elif reply == "half":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"id"')
        else:
            self.send_error(int(reply))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
stripe.api_key, stripe.api_base = "sk_test_1", base
charge = {"amount": 1250, "currency": "usd", "source": "tok_visa"}


def client(**options):
    return stripe.StripeClient("sk_test_1", base_addresses={"api": base}, **options).v1.charges.create


def trial(caller, create, kind):
    global reply
    reply = kind
    keys.clear()
    try:
        create(charge)
    except stripe.StripeError as error:
        print(f"{caller}, {kind}: sent {len(keys)}, keys {len(set(keys))}, {type(error).__name__}", flush=True)


requests, httpx = stripe.RequestsClient(), stripe.HTTPXClient(allow_sync_methods=True)
print("stripe.max_network_retries", stripe.max_network_retries)
for kind in ("lost", "503"):
    trial("module", lambda options: stripe.Charge.create(**options), kind)
    trial("StripeClient", client(), kind)
    trial("StripeClient(max_network_retries=2)", client(max_network_retries=2), kind)
trial("StripeClient(max_network_retries=2)", client(max_network_retries=2), "429")
trial("the same over requests", client(max_network_retries=2, http_client=requests), "half")
trial("the same over httpx", client(max_network_retries=2, http_client=httpx), "half")
stripe.max_network_retries = 5
trial("StripeClient, the module's at 5", client(), "lost")
PYTHON
timeout 100 "$venv/bin/python" "$folder/charge.py" >"$folder/seen" 2>"$folder/log" || { cat "$folder/log"; exit 2; }
diff - "$folder/seen" <<'SEEN'
stripe.max_network_retries 2
module, lost: sent 3, keys 1, APIConnectionError
StripeClient, lost: sent 1, keys 1, APIConnectionError
StripeClient(max_network_retries=2), lost: sent 3, keys 1, APIConnectionError
module, 503: sent 3, keys 1, APIError
StripeClient, 503: sent 1, keys 1, APIError
StripeClient(max_network_retries=2), 503: sent 3, keys 1, APIError
StripeClient(max_network_retries=2), 429: sent 1, keys 1, APIError
the same over requests, half: sent 1, keys 1, APIConnectionError
the same over httpx, half: sent 3, keys 1, APIConnectionError
StripeClient, the module's at 5, lost: sent 1, keys 1, APIConnectionError
SEEN
