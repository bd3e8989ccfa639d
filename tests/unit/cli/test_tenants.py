"""What `aisle tenants shape` refuses before it looks for a database."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from server.cli.tenants import tenants


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--diversity", "1"], "'--diversity': Input should be less than or equal to 0.9"),
        (["--diversity", "nan"], "'--diversity': Input should be"),
        (["--vendor-cap", "-1"], "'--vendor-cap': Input should be greater than or equal to 0"),
        (["--vendor-cap", "two"], "'--vendor-cap': 'two' is not a valid integer"),
        (["--vendor-attribute", "city"], "such as attributes.vendor"),
        (["--new-item-share", "0.6"], "less than or equal to 0.5"),
        (["--new-item-days", "0"], "greater than 0"),
        (["--exploration", "0.51"], "less than or equal to 0.5"),
        (["--booked-event-types", "book purchase"], "separated by commas"),
        (["--repeatable-event-types", "play;listen"], "separated by commas"),
        (["--reset", "everything"], "'everything' is not one of"),
        (["--vendor-cap", "2", "--reset", "vendor-cap"], "--vendor-cap is set and reset at once"),
        ([], "nothing to change; name a setting, such as --diversity 0.1"),
    ],
)
def test_bad_values_are_refused(arguments: list[str], told: str) -> None:
    """A value that the setting would not take is wrong usage: the option is named, and what it takes."""
    result = CliRunner().invoke(tenants, ["shape", "shop", *arguments])
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def test_every_setting_of_shaping_has_an_option() -> None:
    """The help names each option with the server's setting that it stands in for."""
    text = CliRunner().invoke(tenants, ["shape", "--help"]).output
    for option, variable in (("--diversity", "AISLE_DIVERSITY"), ("--repeatable-event-types", "AISLE_REPEATABLE_EVENT_TYPES")):
        assert option in text
        assert variable in text
