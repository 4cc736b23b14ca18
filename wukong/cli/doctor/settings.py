"""The configuration: read as `serve` reads it, its TLS files, and who else can read it."""

import ssl
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from wukong.cli.doctor.finding import ERROR, OK, WARNING, Finding
from wukong.config import Config, config_keys, load_config
from wukong.config.lines import located
from wukong.errors import ConfigError

CHECK: Final = "configuration"
TLS: Final = "tls"
EXPIRES_SOON_S: Final = 14 * 24 * 3600
CERTIFICATE_LIMIT_BYTES: Final = 1 << 20


def read(path: Path | None, environ: Mapping[str, str]) -> tuple[Config | None, list[Finding]]:
    """None if it has faults; every fault and warning is a finding."""
    try:
        config, warnings = load_config(path, environ, embedded=path is None)
    except ConfigError as error:
        return None, [
            Finding(CHECK, ERROR, fault, "`wukong serve` does not start with this")
            for fault in located(error.faults, path)
        ]
    found = [Finding(CHECK, WARNING, warning) for warning in located(warnings, path)]
    if path is not None:
        found += judge_file(path, path.stat().st_mode, has_secrets=bool(secret_keys(config)))
    where = str(path) if path is not None else "no file given: the environment and the defaults"
    return config, found or [Finding(CHECK, OK, f"no faults ({where})")]


def secret_keys(config: Config) -> list[str]:
    """Keys of secrets that are set."""
    return [key.path for key in config_keys() if key.kind.sensitive and key.value_of(config)]


def judge_file(path: Path, mode: int, *, has_secrets: bool) -> list[Finding]:
    if not has_secrets or not mode & (stat.S_IROTH | stat.S_IWOTH):
        return []
    return [
        Finding(CHECK, WARNING, f"{path} holds secrets and is open to every user of this machine", f"chmod 600 {path}")
    ]


def look_at_tls(config: Config) -> list[Finding]:
    if config.wss_addr is None:
        return []
    certificate, key = Path(config.wss_config.cert_file), Path(config.wss_config.key_file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        with certificate.open("rb") as file:
            first = x509.load_pem_x509_certificates(file.read(CERTIFICATE_LIMIT_BYTES))[0]
        mode = key.stat().st_mode
    except (OSError, ssl.SSLError, ValueError) as error:
        return [
            Finding(
                TLS,
                ERROR,
                f"the certificate {certificate} with the key {key} cannot be used: {_reason(error)}",
                "name a PEM certificate and the private key that belongs to it, both readable by the server's user "
                "(wssConfig.certFile, wssConfig.keyFile)",
            )
        ]
    return judge_certificate(
        certificate, first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp(), time.time()
    ) + judge_key(key, mode)


def judge_certificate(path: Path, valid_from: float, valid_until: float, now: float) -> list[Finding]:
    """Times in unix seconds."""
    if now < valid_from:
        return [Finding(TLS, ERROR, f"{path} is not valid before {_day(valid_from)}", "check this machine's clock")]
    renew = "renew it and restart the node: it reads the files at its start"
    if now >= valid_until:
        return [Finding(TLS, ERROR, f"{path} expired on {_day(valid_until)}; clients refuse it", renew)]
    if valid_until - now < EXPIRES_SOON_S:
        return [Finding(TLS, WARNING, f"{path} expires on {_day(valid_until)}", renew)]
    return [Finding(TLS, OK, f"{path} and its key fit, valid until {_day(valid_until)}")]


def judge_key(path: Path, mode: int) -> list[Finding]:
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        return [Finding(TLS, WARNING, f"the private key {path} is open to every user", f"chmod 600 {path}")]
    return []


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
