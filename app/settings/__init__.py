"""The arguments of the Serve config as one frozen tree.

Each field names its unit, its default and why it is what it is. An unknown key or an impossible pair is an error that
names the field; `Settings.load` turns pydantic's report into one sentence a field.
"""

from app.settings.faults import did_you_mean, dotted, wrong_settings
from app.settings.fields import ENDPOINTS
from app.settings.limits import Limits, RequestLimits
from app.settings.model import ModelSettings
from app.settings.tree import DispatchSettings, Retention, Settings

__all__ = [
    "ENDPOINTS",
    "DispatchSettings",
    "Limits",
    "ModelSettings",
    "RequestLimits",
    "Retention",
    "Settings",
    "did_you_mean",
    "dotted",
    "wrong_settings",
]
