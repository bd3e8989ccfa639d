"""What settings refuse."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from pydantic import ValidationError

from server.domain.shaping import ShapingPolicy, ShapingValues
from server.settings import Settings, ShapingSettings
from server.use_cases import _shaping


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("diversity", "1", "less than or equal to 0.9"),
        ("diversity", "-0.1", "greater than or equal to 0"),
        ("diversity", "nan", "less than or equal to 0.9"),
        ("vendor_cap", "-1", "greater than or equal to 0"),
        ("vendor_attribute", "vendor", "such as attributes.vendor"),
        ("vendor_attribute", "attributes.", "such as attributes.vendor"),
        ("new_item_share", "0.6", "less than or equal to 0.5"),
        ("new_item_days", "0", "greater than 0"),
        ("exploration", "0.51", "less than or equal to 0.5"),
        ("exploration", "often", "valid number"),
        ("booked_event_types", "book purchase", "separated by commas"),
        ("repeatable_event_types", "play;listen", "separated by commas"),
        ("repeatable_event_types", "play,,listen", "separated by commas"),
    ],
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    """A value out of its range stops the start, naming the setting and what it takes."""
    monkeypatch.setenv(f"AISLE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=told) as caught:
        Settings()
    assert caught.value.errors()[0]["loc"] == (name,)


def test_the_settings_make_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shaping setting reaches the policy; event types are compared in lower case; the defaults are the policy's own."""
    assert _shaping(Settings()) == ShapingPolicy()
    values = {
        "DIVERSITY": "0.2",
        "VENDOR_CAP": "3",
        "VENDOR_ATTRIBUTE": "attributes.seller.id",
        "NEW_ITEM_SHARE": "0.1",
        "NEW_ITEM_DAYS": "7",
        "EXPLORATION": "0.05",
        "BOOKED_EVENT_TYPES": "",
        "REPEATABLE_EVENT_TYPES": "Play, listen",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"AISLE_{name}", value)
    assert _shaping(Settings()) == ShapingPolicy(
        diversity=0.2,
        vendor_cap=3,
        vendor_path=("seller", "id"),
        new_item_share=0.1,
        new_item_days=7,
        exploration=0.05,
        booked=(),
        repeatable=("listen", "play"),
    )


def test_a_tenants_values_stand_over_the_servers() -> None:
    """What a tenant sets, none and 0 too, counts in place of the server's; the rest is the server's."""
    server = ShapingPolicy(diversity=0.3, vendor_cap=5, booked=("book",), exploration=0.1)
    assert ShapingValues().over(server) == server
    own = ShapingValues(vendor_cap=0, vendor_attribute="attributes.seller.id", booked_event_types="", repeatable_event_types="Play, listen")
    assert own.over(server) == replace(server, vendor_cap=0, vendor_path=("seller", "id"), booked=(), repeatable=("listen", "play"))


def test_values_have_the_names_of_the_settings() -> None:
    """What a tenant can set are the settings of shaping, all of them."""
    assert [field.name for field in fields(ShapingValues)] == list(ShapingSettings.model_fields)
