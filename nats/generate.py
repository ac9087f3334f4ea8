#!/usr/bin/env python3
"""Certificates, nkeys and permissions for the configurations in this folder.

  nats/generate.py --realms directory,orders                    for servers on this machine
  nats/generate.py --realms orders --node nats-0=nats-0.nats.lockgate.svc ... --out DIR

What DIR (target/nats/credentials) holds afterwards:

  accounts.conf        the accounts and their users, included by the servers' configurations
  ca.pem, ca-key.pem   the authority; keep its key away from the servers
  NODE.pem, NODE-key.pem   a server's certificate, for its clients and for its routes
  ROLE.nk              the seed of a role's nkey: `lockgate run ROLE --nats-nkey-seed ROLE.nk`

What is there is kept, so that a second run changes permissions and realms and no secret: remove a
file to have it made anew. Needs Python 3.11 and openssl, and nothing else.

  nats/generate.py --table     prints the table of README.md
  nats/generate.py --check     fails when README.md holds another one
"""

import argparse
import base64
import os
import pathlib
import re
import subprocess
import sys
import tempfile

try:
    import tomllib
except ImportError:
    sys.exit("error: this Python is too old: 3.11 or newer is needed")

HERE = pathlib.Path(__file__).resolve().parent
API = "$JS.API"
VERBS = {
    "look": ["STREAM.INFO.{s}"],
    "read": ["STREAM.INFO.{s}", "STREAM.MSG.GET.{s}", "DIRECT.GET.{s}"],
    "follow": [
        "STREAM.INFO.{s}", "STREAM.MSG.GET.{s}", "DIRECT.GET.{s}",
        "CONSUMER.CREATE.{s}.*", "CONSUMER.INFO.{s}.*", "CONSUMER.MSG.NEXT.{s}.*", "CONSUMER.DELETE.{s}.*",
    ],
    "make": ["STREAM.CREATE.{s}"],
    "purge": ["STREAM.PURGE.{s}"],
}
# Acks have a longer form with the domain and a hash of the account, where the server uses it.
WORK = [
    "$JS.API.CONSUMER.CREATE.{s}.{c}", "$JS.API.CONSUMER.INFO.{s}.{c}", "$JS.API.CONSUMER.MSG.NEXT.{s}.{c}",
    "$JS.ACK.{s}.{c}.>", "$JS.ACK.*.*.{s}.{c}.>",
]
KEYS = {"about", "sets", "of", "publish", "subscribe", "work", *VERBS}
NODES = ["lockgate-1=localhost,127.0.0.1", "lockgate-2=localhost,127.0.0.1", "lockgate-3=localhost,127.0.0.1"]


def fail(what):
    sys.exit(f"error: {what}")


def declared():
    with open(HERE / "permissions.toml", "rb") as file:
        data = tomllib.load(file)
    for name, role in {**data["sets"], **data["roles"]}.items():
        if unknown := set(role) - KEYS:
            fail(f"permissions.toml: {name} has {', '.join(sorted(unknown))}, which is no verb")
    return data["sets"], data["roles"]


def permissions(name, sets, roles, realms):
    """What a role may publish to and subscribe to, in the order of the file, each once."""
    publish, subscribe = {}, {}

    def add(into, subject, role):
        for realm in realms if "{realm}" in subject else [""]:
            into[subject.replace("{realm}", realm).replace("{role}", role)] = None

    def walk(part):
        for verb, templates in VERBS.items():
            for stream in part.get(verb, []):
                for template in templates:
                    add(publish, f"{API}.{template}".replace("{s}", stream), name)
        for pair in part.get("work", []):
            stream, consumer = pair.split()
            for template in WORK:
                add(publish, template.replace("{s}", stream).replace("{c}", consumer), name)
        for subject in part.get("publish", []):
            add(publish, subject, name)
        for subject in part.get("subscribe", []):
            add(subscribe, subject, name)

    role = roles[name]
    parts = [roles[other] for other in role.get("of", [])] + [role]
    for part in parts:
        for each in part.get("sets", []):
            walk(sets[each])
        walk(part)
    if ">" not in subscribe:
        add(subscribe, "_INBOX_{role}.>", name)
    return list(publish), list(subscribe)


def openssl(*arguments, give=None):
    ran = subprocess.run(["openssl", *arguments], input=give, capture_output=True)
    if ran.returncode != 0:
        fail(f"openssl {arguments[0]}: {ran.stderr.decode().strip()}")
    return ran.stdout


def crc16(data):
    """CRC-16/XMODEM, as nkeys close their text with."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2, "little")


def nkey_text(head, key):
    raw = head + key
    return base64.b32encode(raw + crc16(raw)).rstrip(b"=").decode()


USER = 20 << 3  # a U in base32
SEED = 18 << 3  # an S, which the kind of the key follows


def new_nkey():
    """A seed, as nkeys write it (SU...)."""
    der = openssl("genpkey", "-algorithm", "ed25519", "-outform", "DER")
    return nkey_text(bytes([SEED | USER >> 5, (USER & 31) << 3]), der[-32:])


def public_nkey(seed):
    """The public key (U...) of a seed."""
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    if len(raw) != 36 or crc16(raw[:-2]) != raw[-2:]:
        fail("a .nk file holds no seed: remove it to have it made anew")
    der = bytes.fromhex("302e020100300506032b657004220420") + raw[2:34]
    public = openssl("pkey", "-inform", "DER", "-pubout", "-outform", "DER", give=der)
    return nkey_text(bytes([USER]), public[-32:])


def write(path, text, secret=False):
    """A rename, so that a server that reloads never reads half a file."""
    mode = 0o600 if secret else 0o644
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, mode)
    os.replace(file.name, path)


def key(path):
    if not path.exists():
        pem = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        write(path, pem.decode(), secret=True)
        return True
    return False


def authority(out, days):
    certificate, private = out / "ca.pem", out / "ca-key.pem"
    if certificate.exists():
        return
    key(private)
    openssl(
        "req", "-x509", "-new", "-key", str(private), "-out", str(certificate), "-days", str(days),
        "-subj", "/CN=lockgate nats", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )


def certificate(out, node, hosts, days):
    path, private = out / f"{node}.pem", out / f"{node}-key.pem"
    if path.exists():
        return
    key(private)
    address = re.compile(r"[0-9.]+$|.*:")
    names = ",".join(("IP:" if address.match(host) else "DNS:") + host for host in hosts)
    request = openssl("req", "-new", "-key", str(private), "-subj", f"/CN={node}")
    with tempfile.NamedTemporaryFile("w", suffix=".ext") as extensions:
        # Servers are clients of each other on their routes.
        extensions.write(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "keyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n"
        )
        extensions.flush()
        openssl(
            "x509", "-req", "-CA", str(out / "ca.pem"), "-CAkey", str(out / "ca-key.pem"),
            "-days", str(days), "-extfile", extensions.name, "-out", str(path), give=request,
        )


def user(public, publish, subscribe):
    quoted = lambda subjects: ", ".join(f'"{subject}"' for subject in subjects)
    return (
        f"      {{ nkey: {public}, permissions: {{\n"
        f"        publish: [{quoted(publish)}]\n"
        f"        subscribe: [{quoted(subscribe)}] }} }}\n"
    )


def accounts(out, realms):
    sets, roles = declared()
    users = []
    for name, role in roles.items():
        path = out / f"{name}.nk"
        if not path.exists():
            write(path, new_nkey() + "\n", secret=True)
        publish, subscribe = permissions(name, sets, roles, realms)
        users.append(f"      # {name}: {role['about']}\n")
        users.append(user(public_nkey(path.read_text().strip()), publish, subscribe))
    path = out / "system.nk"
    if not path.exists():
        write(path, new_nkey() + "\n", secret=True)
    system = public_nkey(path.read_text().strip())
    write(
        out / "accounts.conf",
        f"# Made by nats/generate.py for the realms {', '.join(realms)}: run it again instead of editing.\n"
        "accounts {\n"
        "  LOCKGATE {\n    jetstream: enabled\n    users: [\n" + "".join(users) + "    ]\n  }\n"
        f"  # What watches and steers the servers; it sees no message.\n  SYS {{ users: [ {{ nkey: {system} }} ] }}\n"
        "}\nsystem_account: SYS\n",
    )


def table():
    """Every verb with its subjects, every role with its verbs, as README.md shows it."""
    sets, roles = declared()
    lines = ["| verb | publishes to, for a stream S and a consumer C |", "|---|---|"]
    for verb, templates in {**VERBS, "work": WORK}.items():
        subjects = [each if each.startswith("$") else f"{API}.{each}" for each in templates]
        named = [f"`{subject.replace('{s}', 'S').replace('{c}', 'C')}`" for subject in subjects]
        lines.append(f"| {verb} | {' '.join(named)} |")
    lines.append("")

    def part(name, about, verbs):
        lines.extend([f"### {name}", "", about, "", "| | |", "|---|---|"])
        for verb in [*VERBS, "work", "publish", "subscribe"]:
            if named := verbs.get(verb, []):
                lines.append(f"| {verb} | {' '.join(f'`{each}`' for each in named)} |")
        lines.append("")

    for name, verbs in sets.items():
        part(f"at the {name}", "What every role of Lockgate does when it starts and when it is probed.", verbs)
    for name, role in roles.items():
        about = f"{role['about'][0].upper()}{role['about'][1:]}."
        if "of" in role:
            about += f" What {', '.join(role['of'])} may, together, with an inbox of its own."
        if "sets" in role:
            about += f" With what is done at the {', '.join(role['sets'])}."
        verbs = {*VERBS, "work", "publish", "subscribe"}
        own = {verb: [each.replace("{role}", name) for each in role[verb]] for verb in role.keys() & verbs}
        if ">" not in own.get("subscribe", []):
            own["subscribe"] = own.get("subscribe", []) + [f"_INBOX_{name}.>"]
        part(name, about, own)
    return "\n".join(lines).strip()


def check():
    text = (HERE / "README.md").read_text()
    shown = text.partition("<!-- begin of the table -->")[2].partition("<!-- end of the table -->")[0]
    if shown.strip() != table():
        fail("nats/README.md holds another table than permissions.toml gives: paste nats/generate.py --table")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realms", metavar="A,B", help="the realms there may be")
    parser.add_argument("--node", action="append", metavar="NAME=HOST,HOST",
                        help="a server and the names and addresses it is reached by; three on this machine by default")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        default=HERE.parent / "target/nats/credentials", help="where to write")
    parser.add_argument("--days", type=int, default=825, help="how long certificates are good for")
    parser.add_argument("--table", action="store_true", help="print the table of README.md")
    parser.add_argument("--check", action="store_true", help="hold README.md against permissions.toml")
    given = parser.parse_args()
    if given.table:
        return print(table())
    if given.check:
        return check()
    if not given.realms:
        parser.error("--realms is missing: name the realms, a,b; the users' rights are made for these")
    realms = given.realms.split(",")
    for realm in realms:
        if not re.fullmatch(r"[a-z0-9_-]{1,64}", realm):
            fail(f"{realm!r} is no realm: lower-case letters, digits, _ and -")
    given.out.mkdir(parents=True, exist_ok=True)
    os.chmod(given.out, 0o700)
    authority(given.out, 10 * 365)
    names = []
    for node in given.node or NODES:
        name, _, hosts = node.partition("=")
        if not hosts:
            fail(f"--node {node}: write NAME=HOST,HOST")
        certificate(given.out, name, hosts.split(","), given.days)
        names.append(name)
    accounts(given.out, realms)
    print(f"{given.out}: servers {', '.join(names)}; a user for each role; realms {', '.join(realms)}")


if __name__ == "__main__":
    main()
