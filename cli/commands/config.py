"""`config`: shows the settings and where they come from."""

import json
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from cli.options import Json
from cli.output.console import print_json, say
from nightread.settings import read_sourced_settings
from nightread.settings_sources import PREFIX, find_env_file, find_toml_file, find_user_folder
from nightread.text import HIDDEN, hide_password

_DEFAULT = "default"
#: Secret settings of which all but the password is shown. In other addresses (notices) any part may be a key.
_ADDRESSES = frozenset({"database_url", "broker_url"})


def config(as_json: Json = False) -> None:
    """Show each setting, its value and its source.

    A variable wins over the file .env, and that over the file settings.toml. Passwords are not shown.

    Example: nightread config
    """
    settings, sources = read_sourced_settings()
    values = {name: _show(name, getattr(settings, name)) for name in type(settings).model_fields}
    if as_json:
        print_json({name: {"value": value, "source": sources.get(name, _DEFAULT)} for name, value in values.items()})
        return
    from rich.text import Text

    from cli.output.tables import make_table, out  # Rich, which --json does not need

    table = make_table("setting", "value", "source", text=("value", "source"))
    for name, value in values.items():
        source = sources.get(name, _DEFAULT)
        style = "dim" if source == _DEFAULT else ""
        shown = ":".join(value) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)
        table.add_row(*(Text(cell, style=style) for cell in (PREFIX + name.upper(), shown, source)))
    out.print(table)
    found = [str(file) for file in (find_toml_file(), find_env_file()) if file]
    folder = find_user_folder()
    if found:
        say(f"Files: {', '.join(found)}")
    elif folder:
        say(f"No settings files. They would be {folder / 'settings.toml'} and {folder / '.env'}", style="dim")


def _show(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return hide_password(secret) if name in _ADDRESSES else HIDDEN * bool(secret)
    if isinstance(value, tuple):
        return [str(path) for path in value]
    return value if isinstance(value, bool | int | float) else str(value.value if isinstance(value, StrEnum) else value)
