"""``vanilla demo``: its sums, its check of them, and that nothing stays behind, however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import sysconfig
from pathlib import Path

import pytest
from programs import environment, gone, group, read_all, running, vanilla, wait_until

from vanilla.client.demo import _address
from vanilla.client.demofiles import Count, count_tokens, differences, find_files, totals
from vanilla.client.failed import Failed
from vanilla.client.family import Child
from vanilla.unix import LONGEST

SOURCE = b"def f(x):\n    return x + 1  # one more\n"


@pytest.fixture
def scratch(tmp_path):
    """Where the demo keeps what must be gone at its end."""
    folder = tmp_path / "t"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def demo(scratch, *args):
    return vanilla("demo", *args, env=environment(TMPDIR=str(scratch)))


@pytest.fixture
def tree(tmp_path):
    """A small tree of files of many kinds, and how many there are."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "site-packages").mkdir()
    for i in range(40):
        (root / "deep" / f"module{i}.py").write_bytes(SOURCE * (i + 1))
    (root / "empty.py").write_bytes(b"")
    (root / "deep" / "er" / "wrong.py").write_bytes(b"(\n")
    (root / "deep" / "er" / "coding.py").write_bytes(b"# coding: no-such\n")
    (root / "site-packages" / "foreign.py").write_bytes(SOURCE)
    (root / "notes.txt").write_bytes(SOURCE)
    (root / "folder.py").mkdir()
    return root


FILES = 43


def sums(out, which):
    (line,) = (line for line in out.splitlines() if line.startswith(f"{which}: ") and "tokens" in line)
    return re.fullmatch(rf"{which}: (.*) in [\d.]+ s", line)[1]


def test_the_standard_librarys_totals_match_though_a_worker_is_killed(scratch):
    status, out, err = demo(scratch, "--quick", "--kill")
    assert (status, err) == (0, ""), out
    assert sysconfig.get_paths()["stdlib"] in out
    files = int(re.match(r"([\d,]+) files", out)[1].replace(",", ""))
    assert files > 300
    assert sums(out, "through the queue") == sums(out, "directly")
    assert re.search(rf"worker 1 was killed at file {(files + 1) // 2:,} of {files:,}; worker 3 takes its place", out)
    assert re.search(r"^redelivered: [\d,]+ files?; came twice and counted once: [\d,]+ results?$", out, re.M)
    assert out.endswith("\ntotals match\n")


def test_a_tree_of_ones_own(scratch, tree):
    status, out, err = demo(scratch, "--path", str(tree))
    assert (status, err) == (0, ""), out
    assert sums(out, "through the queue") == sums(out, "directly")
    assert sums(out, "directly").startswith(f"{FILES} files, ")
    assert sums(out, "directly").endswith(" tokens, 2 errors")
    workers = re.findall(r"^  worker (\d): (\d+) files \(\d+ %\), [\d,]+ bytes, [\d,]+ tokens$", out, re.M)
    assert [number for number, _ in workers] == ["1", "2"]
    assert sum(int(files) for _, files in workers) == FILES
    assert out.endswith("\ntotals match\n")


@pytest.mark.parametrize("kill", [[], ["--kill"]])
def test_by_calls_the_totals_are_the_same_and_a_killed_workers_are_asked_again(scratch, tree, kill):
    status, out, err = demo(scratch, "--path", str(tree), "--rpc", *kill)
    assert (status, err) == (0, ""), out
    assert sums(out, "by calls") == sums(out, "directly")
    assert sums(out, "directly").startswith(f"{FILES} files, ")
    workers = re.findall(r"^  worker (\d): (\d+) files? ", out, re.M)
    assert sum(int(files) for _, files in workers) == FILES
    assert len(workers) == (3 if kill else 2)
    assert bool(re.search(r"^lost with their worker and asked again: \d+ calls?$", out, re.M)) == bool(kill)
    assert out.endswith("\ntotals match\n")


def test_one_of_a_kind_is_told_as_one(scratch, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a.py").write_text("1\n")
    status, out, err = demo(scratch, "--path", str(folder), "--workers", "1", "--kill")
    assert (status, err) == (0, ""), out
    assert out.startswith("1 file of ")
    assert ", 1 worker\n" in out
    assert "in 1 process\n" in out
    assert re.search(r"\b1 (files|workers|processes|results|errors|tokens|bytes)\b", out) is None


@pytest.mark.parametrize("workers", ["1", "3"])
def test_any_number_of_workers_outlives_a_kill(scratch, tree, workers):
    status, out, err = demo(scratch, "--path", str(tree), "--kill", "--workers", workers)
    assert (status, err) == (0, ""), out
    assert f"worker {int(workers) + 1} takes its place" in out
    assert sums(out, "through the queue") == sums(out, "directly")


def test_a_file_above_the_brokers_usual_limit_goes_through(scratch, tree):
    (tree / "large.py").write_bytes(b"x = 1\n" + b"#" * (3 << 20))
    status, out, err = demo(scratch, "--path", str(tree))
    assert (status, err) == (0, ""), out
    assert out.endswith("\ntotals match\n")


def test_a_name_that_is_no_text_goes_through(scratch, tree):
    with open(os.path.join(os.fsencode(tree), b"odd-\xff\n.py"), "wb") as file:
        file.write(SOURCE)
    status, out, _ = demo(scratch, "--path", str(tree))
    assert status == 0
    assert sums(out, "directly").startswith(f"{FILES + 1} files, ")


def test_one_file_alone_can_be_killed_over(scratch, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.py").write_bytes(SOURCE)
    status, out, _ = demo(scratch, "--path", str(tmp_path / "one"), "--kill")
    assert status == 0
    assert "was killed at file 1 of 1" in out


def test_a_folder_without_files_is_one_line(scratch, tmp_path):
    status, out, err = demo(scratch, "--path", str(tmp_path / "nowhere"))
    assert (status, out) == (1, "")
    assert err == f"vanilla demo: there are no .py files in {tmp_path}/nowhere\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_that_cannot_be_read_is_one_line(scratch, tree):
    (tree / "empty.py").chmod(0)
    status, _, err = demo(scratch, "--path", str(tree))
    assert (status, err.count("\n")) == (1, 1)
    assert "empty.py" in err


def test_without_a_terminal_there_is_no_bar(scratch, tree):
    _, out, err = demo(scratch, "--path", str(tree))
    assert err == ""
    assert not re.search(r"[\r\x1b]", out)
    assert "queue: 100 %, 43 of 43 files\n" in out


def test_on_a_terminal_there_is_a_bar(scratch, tree):
    ours, theirs = pty.openpty()
    there = environment(TMPDIR=str(scratch), TERM="xterm")
    with running("demo", "--path", str(tree), stdin=theirs, stdout=theirs, stderr=theirs, env=there) as program:
        os.close(theirs)
        shown = read_all(ours)
        assert program.end()[0] == 0
    os.close(ours)
    assert re.search(r"\rqueue \[#*-*\] \d+ %, \d+ of 43 files", shown)
    assert "\r\x1b[K" in shown
    assert shown.endswith("totals match\r\n")


# -- the end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_it_ends_nothing_stays_behind(tmp_path, signum):
    scratch = tmp_path / "t"
    scratch.mkdir()
    with running("demo", env=environment(TMPDIR=str(scratch))) as program:
        line = b""
        while not line.startswith(b"queue: 25 %"):
            line = program.process.stdout.readline()
        children = group(program.process.pid)
        assert len(children) == 3
        assert sum("vanilla.broker" in command for _, command in children) == 1
        program.process.send_signal(signum)
        status, err = program.end()
    assert (status, err) == ({signal.SIGINT: 130, signal.SIGKILL: -9}.get(signum, 128 + signum), "")
    wait_until(lambda: all(gone(pid) for pid, _ in children))
    if signum != signal.SIGKILL:
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("victim", ["vanilla.broker", "vanilla.client.demowork"])
def test_a_process_that_dies_unasked_is_named(scratch, victim):
    with running("demo", env=environment(TMPDIR=str(scratch))) as program:
        line = b""
        while not line.startswith(b"queue: 25 %"):
            line = program.process.stdout.readline()
        children = group(program.process.pid)
        for pid, command in children:
            if victim in command:
                os.kill(pid, signal.SIGKILL)
        status, err = program.end()
    assert (status, err.count("\n")) == (1, 1)
    assert re.search(r"^vanilla demo: (the broker|worker \d) ended with status -9$", err)
    assert all(gone(pid) for pid, _ in children)


def test_a_child_says_why_it_ended(tmp_path):
    child = Child("the broker", tmp_path, "vanilla.broker", "--listen", "nonsense")
    try:
        child.process.wait()
        with pytest.raises(Failed, match=r"the broker ended with status 1: vanilla-broker: --listen: 'nonsense'"):
            child.check()
    finally:
        child.end()
    child.end()


def test_a_folder_that_no_url_can_name_gets_a_tcp_port():
    assert _address(Path("/tmp/x")) == "unix:///tmp/x/broker.sock"
    assert _address(Path("/tmp/" + "x" * LONGEST)) == "tcp://127.0.0.1:0"
    assert _address(Path("/tmp/what?")) == "tcp://127.0.0.1:0"


# -- the comparison


def test_equal_counts_have_no_differences():
    counts = {b"a": Count(10, 3, False), b"b": Count(5, 0, True)}
    assert differences(counts, dict(counts)) == []


def test_a_wrong_total_is_noticed_and_its_file_named():
    direct = {b"a": Count(10, 3, False), b"b": Count(5, 0, True)}
    assert differences({**direct, b"a": Count(10, 4, False)}, direct) == [
        "tokens: 4 through the queue, 3 directly",
        "a: 10 bytes, 4 tokens through the queue, 10 bytes, 3 tokens directly",
    ]
    assert differences({b"a": direct[b"a"]}, direct) == [
        "files: 1 through the queue, 2 directly",
        "size: 10 through the queue, 15 directly",
        "errors: 0 through the queue, 1 directly",
        "b: missing through the queue, 5 bytes, an error directly",
    ]


def test_errors_that_cancel_out_in_the_totals_are_noticed():
    direct = {b"a": Count(1, 1, False), b"b": Count(1, 2, False)}
    swapped = {b"a": direct[b"b"], b"b": direct[b"a"]}
    assert [line.split(":")[0] for line in differences(swapped, direct)] == ["a", "b"]


def test_many_differences_are_cut_short():
    lines = differences({}, {b"%02d" % i: Count(1, 1, False) for i in range(25)})
    assert lines[-1] == "and 15 more files"


def test_totals_that_differ_are_status_1(scratch, tree, tmp_path):
    """A tokenizer that counts something else in the second process that asks."""
    (tmp_path / "sitecustomize.py").write_text(
        "if b'\\0count\\0' in open('/proc/self/cmdline', 'rb').read():\n"
        "    import tokenize\n"
        "    tokenize.tokenize = lambda readline: iter(readline, b'')\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, out, err = vanilla("demo", "--path", str(tree), env=environment(TMPDIR=str(scratch), PYTHONPATH=path))
    assert (status, err) == (1, "vanilla demo: the totals differ\n")
    assert "tokens: " in out
    assert "deep/module0.py: " in out
    assert "totals match" not in out


def test_counting_is_the_same_each_time_and_never_fails():
    assert count_tokens(SOURCE) == count_tokens(SOURCE) == Count(len(SOURCE), count_tokens(SOURCE).tokens, False)
    assert count_tokens(SOURCE).tokens > 10
    for wrong in (b"(\n", b"\xff\n", b"# coding: no-such\n", b"  x\n y\n"):
        assert count_tokens(wrong) == Count(len(wrong), 0, True)


def test_quick_leaves_out_tests_and_packages_are_never_in(tree):
    (tree / "deep" / "test").mkdir()
    (tree / "deep" / "test" / "test_it.py").write_bytes(SOURCE)
    root = os.fsencode(tree)
    assert len(find_files(root, quick=False)) == FILES + 1
    assert len(find_files(root, quick=True)) == FILES
    assert find_files(root, quick=True)[0] == b"deep/er/coding.py"
    assert str(totals([])) == "0 files, 0 bytes, 0 tokens, 0 errors"
