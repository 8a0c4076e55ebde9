"""What a program does with the client that openapi-python-client generates: creates a person, and fills a cart."""

import sys

from duality_client import Client
from duality_client.api.carts import cart_add_item, create_cart, get_cart
from duality_client.api.persons import create_person, get_person
from duality_client.models import CartAddItem, CartCreate, ItemAlreadyAddedProblem, PersonInput

client = Client(base_url=sys.argv[1])

created = create_person.sync_detailed(client=client, body=PersonInput(name="Ann", city="Rome"))
assert created.status_code == 201 and created.parsed.name == "Ann", created
key = created.headers["Location"].rsplit("/", 1)[1]
person = get_person.sync(key, client=client)
assert (person.name, person.city) == ("Ann", "Rome"), person

opened = create_cart.sync_detailed(client=client, body=CartCreate())
assert opened.status_code == 201, opened
cart = opened.headers["Location"].rsplit("/", 1)[1]
filled = cart_add_item.sync_detailed(cart, client=client, body=CartAddItem(item="apple"))
assert filled.status_code == 200 and "apple" in filled.parsed.items.additional_properties, filled
again = cart_add_item.sync_detailed(cart, client=client, body=CartAddItem(item="apple"))
assert again.status_code == 409 and isinstance(again.parsed, ItemAlreadyAddedProblem), again
assert again.parsed.item == "apple", again
assert list(get_cart.sync(cart, client=client).items.additional_properties) == ["apple"]
