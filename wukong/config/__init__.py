"""The configuration of a node: `load_config` and what it returns."""

from wukong.config.keys import (
    CMD_SUFFIX,
    SYSTEM_DEVICE_ID,
    SYSTEM_UID,
    WEBHOOK_EVENTS,
    Config,
    ExternalAddresses,
    Key,
    cluster_settings,
    config_keys,
    describe,
)
from wukong.config.load import IGNORED_KEYS, detect_lan_ip, load_config
from wukong.config.values import MASK, Account, Address, NodeAddress

__all__ = [
    "CMD_SUFFIX",
    "IGNORED_KEYS",
    "MASK",
    "SYSTEM_DEVICE_ID",
    "SYSTEM_UID",
    "WEBHOOK_EVENTS",
    "Account",
    "Address",
    "Config",
    "ExternalAddresses",
    "Key",
    "NodeAddress",
    "cluster_settings",
    "config_keys",
    "describe",
    "detect_lan_ip",
    "load_config",
]
