"""Composition root: builds the parts, starts them in order, stops them in reverse.

Data flows one way: gateway and api → service → node (log → apply) → dispatch → gateway.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys

import msgspec
import uvloop

from wukong.api.server import ApiServer
from wukong.channel.commands import PutSettings
from wukong.channel.state import Settings
from wukong.clock import Clock, SystemClock
from wukong.config import SYSTEM_UID, Config, cluster_settings
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import WukongError
from wukong.gateway.gateway import ClientGateway
from wukong.node.node import Node
from wukong.raft.runtime import Runtime
from wukong.service.sessions import Sessions
from wukong.session.audience import Audience
from wukong.session.registry import Registry
from wukong.store.datadir import DataDir
from wukong.store.rocks import RocksStore

log = logging.getLogger("wukong")

STOP_TIMEOUT_S = 5.0
_RETRY_SLICE = 500
