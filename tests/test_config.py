"""The configuration: what goes before what, what is refused and how, and what --check prints."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import BROKER, PATIENCE, broker, environment

from vanilla.broker.config import FILE_VARIABLE, Wrong, check, read, strays, toml
from vanilla.broker.options import Options
from vanilla.broker.settings import SETTINGS, URLS
from vanilla.broker.tomlfile import tomllib

#: For each kind: text as a variable has it, what it means, and what a file has for something else.
VALUES = {
    "an integer": ("12345", 12345, "54321"),
    "true or false": ("yes", True, "false"),
    "one of debug, info, warning, error": ("error", "error", '"debug"'),
    "a path": ("/a.pem", "/a.pem", '"/b.pem"'),
    URLS.name: ("unix:///tmp/a,tcp://[::1]:1", ["unix:///tmp/a", "tcp://[::1]:1"], '["unix:///tmp/b"]'),
}
#: The same for settings whose range has none of these.
WITHIN = {
    "depth": ("10", 10, "20"),
    "memory": ("100000000", 100_000_000, "200000000"),
    "udp-datagram": ("1400", 1400, "9000"),
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "broker.toml"
        path.write_text(text)
        return str(path)

    return write


def faults(*args):
    with pytest.raises(Wrong) as raised:
        check(read(*args))
    return raised.value.faults


@pytest.mark.parametrize("key", SETTINGS)
def test_a_flag_goes_before_a_variable_that_before_the_file_and_that_before_the_default(write, key):
    setting = SETTINGS[key]
    also = {"tls-cert": "/c.pem"} if key in ("tls-key", "tls-client-ca") else {}  # alone they are a fault
    text, value, other = WITHIN.get(key) or VALUES[setting.kind.name]
    path = write(f"\n{key} = {other}\n")
    inside = tomllib.loads(f"x = {other}")["x"]
    flags, variables = {key: value}, {setting.variable: text}
    assert read(also, None, {}).held[key][:2] == (setting.default, "default")
    assert read(also, path, {}).held[key][:2] == (inside, f"{path}:2")
    assert read(also, path, variables).held[key][:2] == (value, setting.variable)
    assert read({**also, key: inside}, path, variables).held[key][:2] == (inside, setting.flag)
    assert read({**also, **flags}, path, {}).held[key][:2] == (value, setting.flag)
    assert read(also, None, {FILE_VARIABLE: path}).held[key][:2] == (inside, f"{path}:2")
    assert read(also, path, {FILE_VARIABLE: "/no/such"}).held[key][:2] == (inside, f"{path}:2")


def test_a_switch_that_is_on_elsewhere_can_be_put_off():
    assert read({"insecure": False}, None, {"VANILLA_BROKER_INSECURE": "1"})["insecure"] is False


def test_a_rule_between_two_options_is_told_with_the_place_of_the_one_that_it_names(write, monkeypatch):
    def rule(self):
        raise ValueError("max_attempts is more than capacity")

    monkeypatch.setattr(Options, "__post_init__", rule)
    path = write("\nmax-attempts = 5")
    assert faults({}, path, {}) == [f"{path}:2: max-attempts is more than capacity"]


def test_an_empty_variable_is_none():
    assert read({}, None, {"VANILLA_BROKER_CAPACITY": "", FILE_VARIABLE: ""}).held["capacity"].origin == "default"


def test_what_is_set_reaches_the_broker():
    options = read({"max-frame": 5000, "insecure": True}, None, {"VANILLA_BROKER_DRAIN": "7"}).options
    assert (options.frame_bytes, options.insecure, options.drain_ms) == (5000, True, 7)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("capacity = 0", 1, "capacity is 0, but must be from 1 to "),
        ("\nmax-frame = 10", 2, "max-frame is 10, but must be from "),
        ("capacity = '10'", 1, "capacity must be an integer"),
        ("capacity = true", 1, "capacity must be an integer"),
        ("capacity = 1.0", 1, "capacity must be an integer"),
        ("insecure = 1", 1, "insecure must be true or false"),
        ("log-level = 'loud'", 1, "log-level must be one of debug, info, warning, error"),
        ("log-level = []", 1, "log-level must be one of debug, info, warning, error"),
        ("listen = 'tcp://127.0.0.1:1'", 1, "listen must be a list"),
        ("listen = []", 1, "listen must be a list"),
        ("listen = ['tcp://127.0.0.1:1', 5]", 1, "listen must be a list"),
        ("\nlisten = [\n'nonsense']", 2, "listen: 'nonsense': an address starts with"),
        ("listen = ['tcp://0.0.0.0:1']", 1, "listen: tcp://0.0.0.0:1: other machines can reach"),
        ("listen = ['unix:///no/such/folder/s']", 1, "listen: unix:///no/such/folder/s: there is no folder"),
        ("\n\ncapcity = 1", 3, '"capcity" is no setting (did you mean capacity?)'),
        ("max_frame = 1", 1, '"max_frame" is no setting (did you mean max-frame?)'),
        ("CAPACITY = 1", 1, '"CAPACITY" is no setting'),
        ('"" = 1', 1, '"" is no setting'),
        ("\n[capacity]", 2, "capacity must be an integer"),
        ("\n[limits]\ncapacity = 1", 2, '"limits" is no setting; all keys stand at the top'),
        ("a = '''\ncapacity = 0'''", 1, '"a" is no setting'),
        ("capacity = \n", 1, "Invalid value (at column "),
    ],
)
def test_what_is_wrong_in_the_file_fails_with_file_and_line(write, text, line, said):
    path = write(text)
    (fault,) = faults({}, path, {})
    assert fault.startswith(f"{path}:{line}: {said}")


def test_all_faults_are_told_at_once_each_with_its_place(write):
    path = write("capacity = 0\nmax_frame = 1\ndrain = 'x'\n")
    assert [fault.split(" ")[0] for fault in faults({"channels": 0}, path, {"VANILLA_BROKER_BACKOFF": "-1"})] == [
        f"{path}:1:",
        f"{path}:2:",
        f"{path}:3:",
        "VANILLA_BROKER_BACKOFF",
        "--channels",
    ]


def test_a_wrong_value_in_the_file_is_no_better_when_a_flag_overrides_it(write):
    (fault,) = faults({"capacity": 1}, write("capacity = 0"), {})
    assert "capacity is 0" in fault


@pytest.mark.parametrize("key", SETTINGS)
def test_a_wrong_variable_fails_with_its_name(key):
    setting = SETTINGS[key]
    (fault,) = faults({}, None, {setting.variable: "no such/thing"})
    assert fault.startswith(setting.variable)


def test_what_an_unknown_key_has_for_a_value_is_shown_nowhere(write):
    (fault,) = faults({}, write("token = 'hidden'"), {})
    assert "hidden" not in fault


def test_a_file_that_is_not_there_fails_with_its_name():
    assert faults({}, "/no/such/file", {}) == ["/no/such/file: No such file or directory"]


def test_a_slip_in_a_variables_name_is_told_and_what_kubernetes_sets_is_not():
    environ = {
        "VANILLA_BROKER_CAPCITY": "1",
        "VANILLA_BROKER_CAPACITY": "1",
        "VANILLA_BROKER_CONFIG": "x",
        "VANILLA_BROKER_SERVICE_HOST": "10.0.0.1",
        "VANILLA_BROKER_SERVICE_PORT": "8264",
        "VANILLA_BROKER_PORT": "tcp://10.0.0.1:8264",
        "VANILLA_BROKER_PORT_8264_TCP_PROTO": "tcp",
        "VANILLA_BROKER_PORT_8264_TCP_ADDR": "10.0.0.1",
    }
    assert strays(environ) == ["VANILLA_BROKER_CAPCITY is no setting (did you mean VANILLA_BROKER_CAPACITY?)"]


JSON = st.one_of(st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.lists(st.text()), st.text())


@settings(deadline=None)
@given(JSON)
def test_a_printed_value_reads_back(value):
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_what_is_printed_is_a_file_that_says_the_same(write):
    config = read({"capacity": 5}, None, {"VANILLA_BROKER_LISTEN": "tcp://127.0.0.1:1, unix:///tmp/s"})
    again = read({}, write(str(config)), {})
    assert {key: again[key] for key in SETTINGS} == {key: config[key] for key in SETTINGS}


def run(*args, **variables):
    done = subprocess.run(
        [*BROKER, *args], capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment(**variables)
    )
    return done.returncode, done.stdout, done.stderr


def test_check_says_what_holds_and_why_and_opens_no_port(write):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        path = write(f"# mine\nlisten = ['{url}']\ncapacity = 7\n")
        status, out, err = run("--check", "--config", path, "--drain", "5", VANILLA_BROKER_CAPACITY="8")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f'listen = ["{url}"] # {path}:2' in lines
    assert "capacity = 8 # VANILLA_BROKER_CAPACITY" in lines
    assert "drain = 5 # --drain" in lines
    assert "channels = 20000 # default" in lines
    assert len([line for line in lines if " = " in line]) == len(SETTINGS)


def test_check_of_what_is_wrong_is_a_line_a_fault_and_status_1(write):
    path = write("capacity = 0\nlisten = ['x']\n")
    status, out, err = run("--check", "--config", path)
    assert (status, out) == (1, "")
    assert err.startswith(f"vanilla-broker: {path}:1: capacity is 0")
    assert err.count("\n") == 1, "what it names is looked at when all values can be"
    path = write("listen = ['x']\n")
    assert run("--check", "--config", path)[2].startswith(f"vanilla-broker: {path}:1: listen: 'x': ")


def test_check_tells_of_a_slip_in_a_variables_name():
    status, out, err = run("--check", VANILLA_BROKER_CAPACTIY="1")
    assert (status, err.count("\n")) == (0, 1)
    assert "VANILLA_BROKER_CAPACTIY is no setting" in err
    assert "capacity = 100000" in " ".join(out.split())


def test_a_start_with_a_wrong_file_is_one_line_and_status_1(write):
    path = write("\n\nmax_frame = 1")
    said = f'vanilla-broker: {path}:3: "max_frame" is no setting (did you mean max-frame?)\n'
    assert run("--config", path) == (1, "", said)


def test_the_program_listens_where_its_file_says_and_takes_its_limits_from_there(h, write, tmp_path):
    path = write(f"listen = ['unix://{tmp_path}/s', 'tcp://127.0.0.1:0']\nconnections = 1\nlog-level = 'debug'\n")
    process = subprocess.Popen(
        [*BROKER, "--config", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        urls = [process.stdout.readline().split()[-1] for _ in range(2)]
        assert urls[0] == f"unix://{tmp_path}/s"
        with h.client.connect(urls[1]) as remote:
            remote.ping()
            with pytest.raises(Exception, match="TOO_MANY"):
                h.client.connect(urls[0])
    finally:
        process.terminate()
        err = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0
    assert " DEBUG " in err


def test_the_flag_listen_replaces_that_of_the_file(h, write):
    with broker("--config", write("listen = ['tcp://127.0.0.1:1']")) as (url, _):
        assert url != "tcp://127.0.0.1:1"
        h.client.connect(url).close()


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [("nobody", 141, ""), ("/dev/full", 1, "vanilla-broker: stdout: No space left on device\n")],
)
def test_check_whose_output_cannot_be_written_says_so_in_a_line_or_nothing(output, status, said):
    if output == "nobody":
        read_end, out = os.pipe()
        os.close(read_end)
    else:
        out = os.open(output, os.O_WRONLY)
    try:
        done = subprocess.run(
            [*BROKER, "--check"], stdout=out, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    finally:
        os.close(out)
    assert (done.returncode, done.stderr) == (status, said)
