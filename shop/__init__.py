"""The world outside: a small shop with three services, each with a database of its own.

It knows neither version of the order. Both call `shop.shop.Shop`, and `python -m shop` shows what came of it.
"""
