"""What the shop can answer instead of yes. The class alone decides whether another attempt makes sense.

ShopError
├── TransientError            another attempt may succeed
│   ├── ServiceUnavailable    refused before any effect, or never sent
│   └── ReplyLost             a time-out: the effect may or may not have happened
└── PermanentError            another attempt gets the same answer
    ├── Refusal               a business "no": the order is rejected
    │   ├── PaymentDeclined
    │   ├── UnknownPaymentToken
    │   ├── UnknownProduct
    │   ├── OutOfStock
    │   └── OrderVoided
    ├── OrderConflict         the order id is taken by an order with other content
    ├── UnknownCustomer       nobody to send a confirmation to
    └── ConstraintViolated    the database refuses a value

StoreUnusable is no answer: there is no shop that could give one.
"""

from __future__ import annotations


class ShopError(Exception):
    """Base of everything that the shop raises on purpose."""


class TransientError(ShopError):
    """Another attempt may succeed."""


class ServiceUnavailable(TransientError):
    """The service refused before any effect, or the call never reached it."""


class ReplyLost(TransientError):
    """The caller got no answer in time: the outcome is unknown, never "it failed"."""


class PermanentError(ShopError):
    """Another attempt gets the same answer."""


class Refusal(PermanentError):
    """The business says no."""


class PaymentDeclined(Refusal):
    """The bank declined the charge."""


class UnknownPaymentToken(Refusal):
    """The payment service has never seen this token."""


class UnknownProduct(Refusal):
    """The shop does not sell this sku."""


class OutOfStock(Refusal):
    """Fewer units are left than the order asks for."""


class OrderVoided(Refusal):
    """The order was ended earlier; a late attempt must not revive it."""


class OrderConflict(PermanentError):
    """Another order with the same id and other content was here first."""


class UnknownCustomer(PermanentError):
    """No address is known for the customer."""


class ConstraintViolated(PermanentError):
    """The database refuses a value by a constraint or a type; nothing has changed."""


class StoreUnusable(Exception):
    """The folder or database that keeps the shop cannot be made, reached or written; the message says why."""
