"""Checks a running Floodgate against its own OpenAPI document, with Schemathesis.

Starts a demo of its own (private Redis and PostgreSQL, ports that are free) under a temporary folder, furnishes
a shop (world.py), and lets Schemathesis ask every call of both listeners: with what is known (examples), with
each bound and each violation of the document (coverage), and with what it makes up (fuzzing). Any answer that
the document does not promise fails the check, and so do a 5xx, and a call that never once succeeded: it was not
really looked at.

    check.py FLOODGATE [--keep]

FLOODGATE is the binary. With --keep the folder stays, with the server's log and the reports in it. What was
started is stopped by its process id, whatever happens.
"""

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import world

HERE = pathlib.Path(__file__).parent
SEED = 20261111
# Of fuzzing, for each call; the other phases are as many as the document gives cause for.
EXAMPLES_MAX = 15
UP_WITHIN_S = 120
DOWN_WITHIN_S = 60
# Of one listener. The internal one's calls take 40 s on two busy cores.
RUN_WITHIN_S = 300
# Codes are enciphered with it: the same one makes the same codes in each run.
CODE_KEY = "000102030405060708090a0b0c0d0e0f"
SUCCESS = ("200", "201", "204")
# Calls that cannot succeed in a demo, and why. Their refusals are checked like any others.
NOT_IN_A_DEMO = {"POST /v1/approvals/{id}": "it takes approval.mode external and a signature"}


def main():
    asked = argparse.ArgumentParser(description="see the file's head")
    asked.add_argument("floodgate", type=pathlib.Path)
    asked.add_argument("--keep", action="store_true", help="keep the folder with logs and reports")
    asked = asked.parse_args()
    # So that `finally` runs for it, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="floodgate-contract-"))
    # PostgreSQL runs as another user than root, and must get through.
    folder.chmod(0o755)
    failed = True
    try:
        with demo(asked.floodgate.resolve(), folder) as (public, internal):
            failed = not check(asked.floodgate.resolve(), folder, public, internal)
    finally:
        if asked.keep or failed:
            print(f"logs and reports: {folder}")
        else:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


@contextlib.contextmanager
def demo(floodgate, folder):
    """A demo on free ports, as the URLs of its listeners."""
    public, internal = free_ports(2)
    addresses = {"FLOODGATE_PUBLIC_LISTEN": public, "FLOODGATE_INTERNAL_LISTEN": internal}
    # What else the environment sets for a Floodgate is not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOODGATE_")}
    data = folder / "data"
    data.mkdir()
    (data / "code.key").write_text(CODE_KEY + "\n")
    log = folder / "floodgate.log"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [floodgate, "demo", "--data", data],
            env=environment | addresses,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    try:
        until = time.monotonic() + UP_WITHIN_S
        while "Floodgate is up" not in log.read_text():
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the demo did not come up:\n{log.read_text()}")
            time.sleep(0.1)
        yield f"http://{public}", f"http://{internal}"
    finally:
        server.terminate()
        try:
            server.wait(DOWN_WITHIN_S)
        except subprocess.TimeoutExpired:
            # Its stores get their death signals.
            server.kill()
            server.wait()


def die_with_parent():
    """PR_SET_PDEATHSIG: not even a kill of this process leaves the child behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ["127.0.0.1:%d" % one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def check(floodgate, folder, public, internal):
    """Whether the listeners keep what the document promises."""
    data = folder / "data"

    def token(user):
        command = [floodgate, "token", "--data", data, "--user", user]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()

    began = time.monotonic()
    shop = world.World(public, internal, (data / "admin.key").read_text().strip(), token)
    known = shop.furnish()
    (folder / "world.json").write_text(json.dumps(known))
    config = folder / "schemathesis.toml"
    config.write_text((HERE / "schemathesis.toml").read_text() + dictionaries(known["calls"]))
    print(f"the shop is furnished: {time.monotonic() - began:.1f} s", flush=True)
    runs = [run(folder, config, internal, tag, url) for tag, url in (("public", public), ("internal", internal))]
    succeeded = all_succeeded(folder, internal)
    return all(runs) and succeeded


def dictionaries(calls):
    """What is known, as words for fuzzing to mix in."""
    lines, operations = [], []
    for call, known in calls.items():
        words = {f"path.{name}": values for name, values in known.get("path", {}).items()} | known.get("words", {})
        if words:
            operations += ["[[operations]]", f"include-name = {json.dumps(call)}", "[operations.parameters]"]
        for place, values in words.items():
            name = f"words-{len(lines)}"
            lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
            operations.append(f'{json.dumps(place)} = {{ dictionary = "{name}", probability = 0.7 }}')
    return "\n".join(["", *lines, *operations, ""])


def run(folder, config, internal, tag, url):
    """Schemathesis over the calls of one listener; whether it found nothing."""
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(HERE),
        "FLOODGATE_CONTRACT_WORLD": str(folder / "world.json"),
        "FLOODGATE_CONTRACT_ANSWERS": str(folder / f"answers-{tag}.json"),
    }
    command = [pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", config, "run"]
    command += [f"{internal}/openapi.json", "--url", url, "--include-tag", tag, "--no-color"]
    command += ["--seed", str(SEED), "--max-examples", str(EXAMPLES_MAX)]
    began = time.monotonic()
    report = folder / f"report-{tag}.txt"
    with open(report, "w") as out:
        # In its own folder: it leaves caches where it runs.
        done = subprocess.run(
            command, env=environment, cwd=folder, stdout=out, stderr=subprocess.STDOUT, timeout=RUN_WITHIN_S
        )
    text = report.read_text()
    print(f"{tag}: {'nothing found' if done.returncode == 0 else 'FAILED'}: {time.monotonic() - began:.1f} s", flush=True)
    if done.returncode != 0:
        print(text)
    else:
        print("\n".join(line for line in text.splitlines() if "generated" in line))
    return done.returncode == 0


def all_succeeded(folder, internal):
    """Whether every call of the document succeeded at least once; prints how each was answered."""
    answers = {}
    for tag in ("public", "internal"):
        answers |= json.loads((folder / f"answers-{tag}.json").read_text())
    paths = world.document(internal)["paths"]
    calls = [f"{method.upper()} {path}" for path, item in paths.items() for method in item]
    fine = True
    for call in calls:
        counts = answers.get(call, {})
        shown = ", ".join(f"{word}: {count}" for word, count in sorted(counts.items()))
        print(f"{call}\n    {shown}")
        if call in NOT_IN_A_DEMO:
            print(f"    cannot succeed here: {NOT_IN_A_DEMO[call]}")
        elif not any(word in SUCCESS for word in counts):
            print("    FAILED: never succeeded, so what it answers then was not looked at")
            fine = False
    return fine


if __name__ == "__main__":
    main()
