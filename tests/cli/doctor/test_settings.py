import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wukong.cli.doctor import settings
from wukong.cli.doctor.finding import ERROR, OK, WARNING

DAY_S = 86_400


def certificate(folder: Path, days: int) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "im.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key_file.chmod(0o600)
    return cert_file, key_file


def levels_of(cert_file: Path, key_file: Path, tmp_path: Path) -> list[str]:
    file = tmp_path / "wk.yaml"
    file.write_text(
        f"rootDir: {tmp_path}\nhttpAddr: 127.0.0.1:5001\nwssAddr: wss://127.0.0.1:5210\n"
        f"wssConfig: {{certFile: {cert_file}, keyFile: {key_file}}}\n"
    )
    config, found = settings.read(file, {"HOME": str(tmp_path)})
    assert config is not None, found
    return [each.level for each in settings.look_at_tls(config)]


@pytest.mark.parametrize(("days", "level"), [(300, OK), (3, WARNING), (-1, ERROR)])
def test_a_certificate_is_judged_by_how_long_it_holds(tmp_path: Path, days: int, level: str) -> None:
    assert levels_of(*certificate(tmp_path, days), tmp_path) == [level]


def test_a_key_that_does_not_belong_to_the_certificate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert_file, _ = certificate(tmp_path, 300)
    _, key_file = certificate(tmp_path / "other", 300)
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    assert levels_of(cert_file, key_file, tmp_path) == [ERROR]


def test_a_private_key_that_all_can_read_is_a_warning(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path, 300)
    key_file.chmod(0o644)
    assert levels_of(cert_file, key_file, tmp_path) == [OK, WARNING]


def test_a_certificate_of_tomorrow_points_at_the_clock() -> None:
    (found,) = settings.judge_certificate(Path("c"), 2 * DAY_S, 9 * DAY_S, DAY_S)
    assert (found.level, "clock" in found.advice) == (ERROR, True)


def test_every_fault_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("mode: release\nhttpAddr: nonsense\nconnIdleTime: soon\n")
    config, found = settings.read(file, {"HOME": str(tmp_path)})
    assert config is None
    assert [each.level for each in found] == [ERROR, ERROR]
    assert f"{file}:2: httpAddr" in found[0].text


def test_an_api_for_everybody_without_a_token_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("mode: release\nhttpAddr: 0.0.0.0:5001\nmanager: {on: false}\n")
    _, found = settings.read(file, {"HOME": str(tmp_path)})
    assert [(each.level, "managerToken: NOT SET" in each.text) for each in found] == [(WARNING, True)]


def test_a_file_with_secrets_that_all_can_read_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("mode: release\nmanagerToken: abc\nmanager: {on: false}\n")
    file.chmod(0o644)
    assert [each.level for each in settings.read(file, {"HOME": str(tmp_path)})[1]] == [WARNING]
    file.chmod(0o600)
    assert [each.level for each in settings.read(file, {"HOME": str(tmp_path)})[1]] == [OK]
