"""The pair of models that the data in RETLLM_HOME was made with, which a start without a choice keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from retllm.presets import PRESETS

_FILE = "preset"


def keep_preset(home: Path, preset: str) -> None:
    """Keep the name of a preset in the folder of the platform."""
    file = home / _FILE
    if kept_preset(home) != preset:
        temporary = file.with_name(f"{_FILE}.new")
        temporary.write_text(f"{preset}\n", encoding="utf-8")
        temporary.replace(file)


def kept_preset(home: Path) -> str | None:
    """Return the preset that is kept in the folder of the platform; None if none is."""
    try:
        name = (home / _FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return name if name in PRESETS else None


class KeptPreset(PydanticBaseSettingsSource):
    """Gives the settings the preset that their home keeps, if nothing else names one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - as in its base
        """Return nothing: the settings are given all at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the preset, if one is kept."""
        home = self.current_state.get("home", self.settings_cls.model_fields["home"].default)
        name = kept_preset(Path(home).expanduser())
        return {} if name is None else {"preset": name}
